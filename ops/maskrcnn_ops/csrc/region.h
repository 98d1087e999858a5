// A region on its level, and the cells that its bins read (CPU).
#pragma once

#include <vector>

#include "family.h"

namespace maskrcnn_ops {

template <typename G>
struct Region {
  bool valid;  // if false, the output and all gradients are 0
  int64_t image;
  int level;
  Axis<G> y;
  Axis<G> x;
};

template <typename G>
Region<G> region_of(const Family& f, const G* box, int64_t image) {
  Region<G> r{};
  STD_TORCH_CHECK(image >= -1 && image < f.images, "image index ", image, " is out of range for ", f.images, " images");
  r.valid = image >= 0 && is_finite(box[0]) && is_finite(box[1]) && is_finite(box[2]) && is_finite(box[3]);
  if (!r.valid) return r;
  r.image = image;
  const double area = static_cast<double>((box[2] - box[0]) * (box[3] - box[1]));
  r.level = choose_level(area, f.octaves, f.levels, f.switches);
  const Level& level = f.level[r.level];
  const G scale = static_cast<G>(level.scale);
  r.y = make_axis(box[1], box[3], scale, f.height, level.height, f.switches);
  r.x = make_axis(box[0], box[2], scale, f.width, level.width, f.switches);
  return r;
}

// All points of a region along one axis, bin by bin.
template <typename G>
struct Points {
  std::vector<Span> span;         // [bins]
  std::vector<int64_t> begin;     // [bins + 1], into tap
  std::vector<int64_t> divisor;   // [bins]
  std::vector<bool> outside;      // [bins]
  std::vector<Tap<G>> tap;

  void build(const Axis<G>& axis, int64_t bins, const Switches& s) {
    span.resize(bins);
    begin.assign(bins + 1, 0);
    divisor.resize(bins);
    outside.resize(bins);
    tap.clear();
    for (int64_t p = 0; p < bins; ++p) {
      span[p] = points_of_bin(axis, p, s);
      divisor[p] = divisor_of_bin(axis, span[p], s);
      outside[p] = reaches_outside(axis, span[p], s);
      for (int64_t i = 0; i < span[p].count; ++i) tap.push_back(tap_of_point(axis, p, span[p].first + i, s));
      begin[p + 1] = static_cast<int64_t>(tap.size());
    }
  }
};

// The four cells that a point reads, as offsets into one channel of the map, and their weights.
template <typename G>
struct Reads {
  int64_t offset[4];
  G weight[4];
};

template <typename G>
Reads<G> reads_of(const Tap<G>& y, const Tap<G>& x, const Level& level) {
  const int64_t low = y.low * level.row_stride;
  const int64_t high = y.high * level.row_stride;
  return {{low + x.low * level.column_stride, low + x.high * level.column_stride,
           high + x.low * level.column_stride, high + x.high * level.column_stride},
          {y.weight_low * x.weight_low, y.weight_low * x.weight_high,
           y.weight_high * x.weight_low, y.weight_high * x.weight_high}};
}

// The reads of the point that won a maximum. With bin rounding, `winner` is the cell y W + x of the map. Otherwise it is the
// index among the points of the bin that lie inside the map.
template <typename G>
Reads<G> reads_of_winner(const Points<G>& y, const Points<G>& x, int64_t p, int64_t q, int32_t winner, const Level& level, const Switches& s) {
  if (s.bin_rounding) {
    const Tap<G> row{winner / level.width, winner / level.width, G(1), G(0)};
    const Tap<G> column{winner % level.width, winner % level.width, G(1), G(0)};
    return reads_of(row, column, level);
  }
  const int64_t count = x.span[q].count;
  return reads_of(y.tap[y.begin[p] + winner / count], x.tap[x.begin[q] + winner % count], level);
}

}  // namespace maskrcnn_ops

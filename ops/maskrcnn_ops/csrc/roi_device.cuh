// A region and its points as one CUDA thread sees them: the arithmetic of geometry.h, nothing stored.
#pragma once

#include "family.h"

namespace maskrcnn_ops {

// Data of the levels' maps; a kernel gets all of them in one launch.
struct Maps {
  void* data[kMaxLevels];
};

template <typename G>
struct Region {
  bool valid;  // false: the output is 0 and so is every gradient
  int64_t image;
  int level;
  Axis<G> y;
  Axis<G> x;
};

template <typename G>
__device__ inline Region<G> region_of(const Family& f, const G* box, int64_t image) {
  CUDA_KERNEL_ASSERT(image >= -1 && image < f.images);
  Region<G> r{};
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

// The interpolated value at one point of one channel.
template <typename T, typename G>
__device__ inline G value_at(const T* map, const Level& level, const Tap<G>& y, const Tap<G>& x) {
  const T* low = map + y.low * level.row_stride;
  const T* high = map + y.high * level.row_stride;
  const int64_t left = x.low * level.column_stride;
  const int64_t right = x.high * level.column_stride;
  return y.weight_low * (x.weight_low * static_cast<G>(low[left]) + x.weight_high * static_cast<G>(low[right])) +
         y.weight_high * (x.weight_low * static_cast<G>(high[left]) + x.weight_high * static_cast<G>(high[right]));
}

// Weight that a tap gives to one cell of its axis.
template <typename G>
__device__ inline G weight_of(const Tap<G>& tap, int64_t cell) {
  return (tap.low == cell ? tap.weight_low : G(0)) + (tap.high == cell && tap.high != tap.low ? tap.weight_high : G(0));
}

// Taps of the winning point of a maximum (see winner_of in region.h).
template <typename G>
__device__ inline void taps_of_winner(
    const Region<G>& r, int64_t p, int64_t q, int32_t winner, const Level& level, const Switches& s, Tap<G>* y, Tap<G>* x) {
  if (s.bin_rounding) {
    *y = {winner / level.width, winner / level.width, G(1), G(0)};
    *x = {winner % level.width, winner % level.width, G(1), G(0)};
    return;
  }
  const Span rows = points_of_bin(r.y, p, s);
  const Span columns = points_of_bin(r.x, q, s);
  *y = tap_of_point(r.y, p, rows.first + winner / columns.count, s);
  *x = tap_of_point(r.x, q, columns.first + winner % columns.count, s);
}

// Sum of the weights that the points of bin p give to one cell, over the number the mean divides by.
template <typename G>
__device__ inline G share_of_cell(const Axis<G>& axis, int64_t p, int64_t cell, const Switches& s) {
  const Span span = points_of_bin(axis, p, s);
  G sum = 0;
  for (int64_t i = span.first; i < span.first + span.count; ++i) sum += weight_of(tap_of_point(axis, p, i, s), cell);
  return sum / static_cast<G>(divisor_of_bin(axis, span, s));
}

// Whether any bin of the region can read this cell: its points lie within a cell of [start, start + bins * bin].
template <typename G>
__device__ inline bool may_read(const Axis<G>& axis, int64_t bins, int64_t cell) {
  const G end = axis.start + static_cast<G>(bins) * axis.bin;
  const G low = axis.start < end ? axis.start : end;
  const G high = axis.start < end ? end : axis.start;
  // Points beyond the map are clamped to its first and last cell.
  const G at = static_cast<G>(cell);
  return (at >= low - G(2) || cell == axis.size - 1) && (at <= high + G(2) || cell == 0);
}

}  // namespace maskrcnn_ops

// roi_maximum on the CPU: the largest point of every bin, and which one it was.
#include <torch/csrc/stable/library.h>

#include "plan.h"

namespace maskrcnn_ops {
namespace {

template <typename T, typename G>
struct Maximiser {
  const Family& f;
  const std::vector<Tensor>& features;
  const Plan<G>& plan;
  T* out;
  int32_t* winner;
  Level output = output_strides(f);
  const Kernels<T, G>& loops = kernels<T, G>();

  Points<G> y{};
  Points<G> x{};
  std::vector<int64_t> row{};
  std::vector<int64_t> column{};
  std::vector<int64_t> offset{};
  std::vector<G> weight{};

  void run(int64_t r, int64_t first, int64_t last) {
    const Region<G>& region = plan.region[r];
    if (!region.valid) {
      const int64_t begin = r * output.image_stride + (f.channels_last ? 0 : first * output.channel_stride);
      const int64_t count = f.channels_last ? output.image_stride : (last - first) * output.channel_stride;
      std::fill_n(out + begin, count, T(0));
      std::fill_n(winner + begin, count, -1);
      return;
    }
    y.build(region.y, f.height, f.switches);
    x.build(region.x, f.width, f.switches);
    for (int64_t p = 0; p < f.height; ++p)
      for (int64_t q = 0; q < f.width; ++q) run_bin(region, r, p, q, first, last);
  }

  void run_bin(const Region<G>& region, int64_t r, int64_t p, int64_t q, int64_t first, int64_t last) {
    const Level& level = f.level[region.level];
    const T* map = features[region.level].template const_data_ptr<T>() + region.image * level.image_stride;
    const int64_t at = r * output.image_stride + p * output.row_stride + q * output.column_stride;
    const bool empty = y.span[p].count == 0 || x.span[q].count == 0;
    if (empty) {
      for (int64_t c = first; c < last; ++c) {
        out[at + c * output.channel_stride] = T(0);
        winner[at + c * output.channel_stride] = -1;
      }
      return;
    }
    const auto each = [&](const auto& loop) {
      if (f.channels_last) return loop(map, out + at, winner + at, f.channels);
      for (int64_t c = first; c < last; ++c) {
        const int64_t to = at + c * output.channel_stride;
        loop(map + c * level.channel_stride, out + to, winner + to, 1);
      }
    };
    if (f.switches.bin_rounding) largest_cell(level, p, q, each);
    else largest_point(level, p, q, each);
  }

  template <typename Each>
  void largest_cell(const Level& level, int64_t p, int64_t q, const Each& each) {
    const Span& rows = y.span[p];
    const Span& columns = x.span[q];
    row.resize(rows.count);
    column.resize(columns.count);
    for (int64_t i = 0; i < rows.count; ++i) row[i] = (rows.first + i) * level.row_stride;
    for (int64_t j = 0; j < columns.count; ++j) column[j] = (columns.first + j) * level.column_stride;
    const BinTaps<G> taps{rows.count, row.data(), nullptr, columns.count, column.data(), nullptr};
    const auto number = static_cast<int32_t>(rows.first * level.width + columns.first);
    each([&](const T* map, T* to, int32_t* chosen, int64_t channels) {
      loops.cell_maximum(map, taps, number, static_cast<int32_t>(level.width), to, chosen, channels);
    });
  }

  template <typename Each>
  void largest_point(const Level& level, int64_t p, int64_t q, const Each& each) {
    offset.clear();
    weight.clear();
    for (int64_t i = y.begin[p]; i < y.begin[p + 1]; ++i) {
      for (int64_t j = x.begin[q]; j < x.begin[q + 1]; ++j) {
        const Reads<G> reads = reads_of(y.tap[i], x.tap[j], level);
        offset.insert(offset.end(), reads.offset, reads.offset + 4);
        weight.insert(weight.end(), reads.weight, reads.weight + 4);
      }
    }
    const auto points = static_cast<int64_t>(offset.size() / 4);
    const bool outside = y.outside[p] || x.outside[q];
    each([&](const T* map, T* to, int32_t* chosen, int64_t channels) {
      loops.point_maximum(map, points, offset.data(), weight.data(), outside, to, chosen, channels);
    });
  }
};

template <typename T, typename G>
void maximum_regions(const Family& f, const std::vector<Tensor>& features, const Plan<G>& plan, T* out, int32_t* winner) {
  const int64_t block = f.channels_last ? std::max<int64_t>(f.channels, 1) : 4 * kPlanesAtOnce;
  const int64_t blocks = (f.channels + block - 1) / block;
  torch::stable::parallel_for(0, blocks * f.regions, 1, [&](int64_t begin, int64_t end) {
    Maximiser<T, G> maximiser{f, features, plan, out, winner};
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task / f.regions * block;
      maximiser.run(plan.order[task % f.regions], first, std::min(first + block, f.channels));
    }
  });
}

std::tuple<Tensor, Tensor> roi_maximum(std::vector<Tensor> features, Tensor boxes, Tensor image, int64_t height,
                                       int64_t width, std::vector<double> scales, std::vector<double> switches) {
  const bool channels_last = settle_layout(features);
  const ScalarType dtype = features[0].scalar_type();
  check_boxes(boxes, dtype);
  const Family f = family_of(boxes, image, shape_of(features), height, width, scales, switches, channels_last);
  check_winners_fit(f);
  Tensor out = fresh_map(boxes, f.regions, f.channels, height, width, dtype, channels_last);
  Tensor winner = fresh_map(boxes, f.regions, f.channels, height, width, ScalarType::Int, channels_last);
  by_dtype(dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    maximum_regions<T, G>(f, features, Plan<G>(f, boxes, image), out.mutable_data_ptr<T>(), winner.mutable_data_ptr<int32_t>());
  });
  return {out, winner};
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { m.impl("roi_maximum", TORCH_BOX(&roi_maximum)); }

}  // namespace
}  // namespace maskrcnn_ops

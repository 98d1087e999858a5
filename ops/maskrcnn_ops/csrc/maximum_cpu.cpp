// roi_maximum on the CPU: the largest point of every bin and its index.
#include <torch/csrc/stable/library.h>

#include "plan.h"

namespace maskrcnn_ops {
namespace {

template <typename T, typename G>
struct Maximiser {
  const Family& f;
  const std::vector<Tensor>& features;
  const Plan<G>& plan;
  bool channels_last;  // of the output
  T* out;
  int32_t* winner;
  const Kernels<T, G>& loops = kernels<T, G>();

  Points<G> y{};
  Points<G> x{};
  std::vector<T> bins_out{};          // result of a region in channels-last order, if the output is contiguous
  std::vector<int32_t> bins_winner{};
  std::vector<int64_t> row{};
  std::vector<int64_t> column{};
  std::vector<int64_t> offset{};
  std::vector<G> weight{};

  void run(int64_t r) {
    const Region<G>& region = plan.region[r];
    const int64_t size = f.channels * f.height * f.width;
    T* to = out + r * size;
    int32_t* chosen = winner + r * size;
    if (!region.valid) {
      std::fill_n(to, size, T(0));
      std::fill_n(chosen, size, -1);
      return;
    }
    y.build(region.y, f.height, f.switches);
    x.build(region.x, f.width, f.switches);
    if (channels_last) return run_bins(region, to, chosen);
    bins_out.resize(size);
    bins_winner.resize(size);
    run_bins(region, bins_out.data(), bins_winner.data());
    transpose(bins_out.data(), to);
    transpose(bins_winner.data(), chosen);
  }

  // Transposes [bins, C] to [C, bins], one cache line of channels at a time.
  template <typename V>
  void transpose(const V* from, V* to) const {
    const int64_t bins = f.height * f.width;
    constexpr int64_t kLine = 64 / sizeof(V);
    for (int64_t first = 0; first < f.channels; first += kLine) {
      const int64_t last = std::min(first + kLine, f.channels);
      for (int64_t b = 0; b < bins; ++b)
        for (int64_t c = first; c < last; ++c) to[c * bins + b] = from[b * f.channels + c];
    }
  }

  void run_bins(const Region<G>& region, T* to, int32_t* chosen) {
    for (int64_t p = 0; p < f.height; ++p)
      for (int64_t q = 0; q < f.width; ++q) {
        const int64_t at = (p * f.width + q) * f.channels;
        run_bin(region, p, q, to + at, chosen + at);
      }
  }

  void run_bin(const Region<G>& region, int64_t p, int64_t q, T* to, int32_t* chosen) {
    const Level& level = f.level[region.level];
    const T* map = features[region.level].template const_data_ptr<T>() + region.image * level.image_stride;
    if (y.span[p].count == 0 || x.span[q].count == 0) {
      std::fill_n(to, f.channels, T(0));
      std::fill_n(chosen, f.channels, -1);
      return;
    }
    const auto each = [&](const auto& loop) { loop(map, to, chosen, f.channels); };
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
void maximum_regions(const Family& f, const std::vector<Tensor>& features, const Plan<G>& plan, bool channels_last, T* out, int32_t* winner) {
  torch::stable::parallel_for(0, f.regions, 1, [&](int64_t begin, int64_t end) {
    Maximiser<T, G> maximiser{f, features, plan, channels_last, out, winner};
    for (int64_t i = begin; i < end; ++i) maximiser.run(plan.order[i]);
  });
}

std::tuple<Tensor, Tensor> roi_maximum(std::vector<Tensor> features, Tensor boxes, Tensor image, int64_t height,
                                       int64_t width, std::vector<double> scales, std::vector<double> switches) {
  const bool channels_last = settle_layout(features);
  const ScalarType dtype = features[0].scalar_type();
  check_boxes(boxes, features[0]);
  // Maxima need channels-last maps: transposing them once is faster than reading them cell by cell.
  for (Tensor& map : features) map = torch::stable::contiguous(map, MemoryFormat::ChannelsLast);
  const Family f = family_of(boxes, image, shape_of(features), height, width, scales, switches, true);
  check_winners_fit(f);
  Tensor out = fresh_map(boxes, f.regions, f.channels, height, width, dtype, channels_last);
  Tensor winner = fresh_map(boxes, f.regions, f.channels, height, width, ScalarType::Int, channels_last);
  by_dtype(dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    maximum_regions<T, G>(f, features, Plan<G>(f, boxes, image), channels_last, out.mutable_data_ptr<T>(), winner.mutable_data_ptr<int32_t>());
  });
  return {out, winner};
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { m.impl("roi_maximum", TORCH_BOX(&roi_maximum)); }

}  // namespace
}  // namespace maskrcnn_ops

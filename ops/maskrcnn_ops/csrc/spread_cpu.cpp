// roi_spread on the CPU: the adjoint of roi_sample. Every thread owns channels, so no two add to one cell, and each
// channel's sums are taken in the same order, with the same operations, at any number of threads.
#include <torch/csrc/stable/library.h>

#include "plan.h"

namespace maskrcnn_ops {
namespace {

// Winners lie anywhere in a region: few enough channels that its cells stay in the cache.
constexpr int64_t kChannelsAtOnce = 256;
constexpr int64_t kWinnerPlanesAtOnce = 32;

template <typename T, typename G>
struct Spreader {
  const Family& f;
  const T* grad;
  const Plan<G>& plan;
  const int32_t* winner;  // null: the mean
  std::vector<Tensor>& maps;
  Level output = output_strides(f);
  const Kernels<T, G>& loops = kernels<T, G>();

  RegionFilters<G> filters{};
  Batch<G> batch{};
  Points<G> y{};
  Points<G> x{};

  G* map_of(const Region<G>& region) const {
    return maps[region.level].template mutable_data_ptr<G>() + region.image * f.level[region.level].image_stride;
  }

  void spread(int64_t r, int64_t first, int64_t last) {
    const Region<G>& region = plan.region[r];
    if (!region.valid) return;
    const T* from = grad + r * output.image_stride;
    if (winner) return spread_winners(region, r, first, last);
    filters.build(f, region);
    spread_channels(region, from, first, last);
  }

  // A batch of regions on contiguous planes first .. last - 1, a few planes at a time.
  void spread_batch(int64_t which, int64_t first, int64_t last) {
    batch.build(f, plan, which, loops.width);
    for (int64_t c = first; c < last; c += kPlanesAtOnce)
      for (const auto& item : batch.item)
        if (plan.region[item.r].valid) spread_planes(item, c, std::min(c + kPlanesAtOnce, last));
  }

  void spread_channels(const Region<G>& region, const T* from, int64_t first, int64_t last) {
    G* map = map_of(region) + first;
    for (int64_t p = 0; p < f.height; ++p)
      for (int64_t q = 0; q < f.width; ++q)
        loops.scatter(map, filters.taps(p, q), from + p * output.row_stride + q * output.column_stride + first, last - first);
  }

  void spread_planes(const typename Batch<G>::Item& item, int64_t first, int64_t last) {
    const Region<G>& region = plan.region[item.r];
    const Level& level = f.level[region.level];
    const T* from = grad + item.r * output.image_stride;
    for (int64_t c = first; c < last; ++c) {
      G* plane = map_of(region) + c * level.channel_stride;
      const T* plane_grad = from + c * output.channel_stride;
      if (item.dense && loops.plane_scatter(plane, item.planes.taps, plane_grad)) continue;
      for (int64_t p = 0; p < f.height; ++p)
        for (int64_t q = 0; q < f.width; ++q) loops.scatter(plane, item.filters.taps(p, q), plane_grad + p * f.width + q, 1);
    }
  }

  void spread_winners(const Region<G>& region, int64_t r, int64_t first, int64_t last) {
    if (f.switches.bin_rounding) return spread_cells(region, r, first, last);
    y.build(region.y, f.height, f.switches);
    x.build(region.x, f.width, f.switches);
    for (int64_t p = 0; p < f.height; ++p) {
      for (int64_t q = 0; q < f.width; ++q) {
        const int64_t at = r * output.image_stride + p * output.row_stride + q * output.column_stride;
        spread_points(region, p, q, at, first, last);
      }
    }
  }

  // In the order of memory: bins outside and channels inside, or the other way round.
  void spread_cells(const Region<G>& region, int64_t r, int64_t first, int64_t last) {
    const Level& level = f.level[region.level];
    const int64_t bins = f.height * f.width;
    const auto add = [&](G* to, int64_t at, int64_t count, int64_t cell_stride, int64_t step) {
      const int32_t* cell = winner + at;
      const T* from = grad + at;
      for (int64_t i = 0; i < count; ++i, to += step)
        if (cell[i] >= 0) to[cell[i] * cell_stride] += static_cast<G>(from[i]);
    };
    G* map = map_of(region);
    const int64_t start = r * output.image_stride;
    if (f.channels_last) {
      for (int64_t c = first; c < last; c += kChannelsAtOnce)
        for (int64_t b = 0; b < bins; ++b)
          add(map + c, start + b * f.channels + c, std::min(kChannelsAtOnce, last - c), level.column_stride, 1);
    } else {
      for (int64_t c = first; c < last; ++c) add(map + c * level.channel_stride, start + c * bins, bins, 1, 0);
    }
  }

  void spread_points(const Region<G>& region, int64_t p, int64_t q, int64_t at, int64_t first, int64_t last) {
    const Level& level = f.level[region.level];
    for (int64_t c = first; c < last; ++c) {
      const int64_t place = at + c * output.channel_stride;
      if (winner[place] < 0) continue;
      const Reads<G> read = reads_of_winner(y, x, p, q, winner[place], level, f.switches);
      G* map = map_of(region) + c * level.channel_stride;
      for (int k = 0; k < 4; ++k)
        if (read.weight[k] != G(0)) map[read.offset[k]] += read.weight[k] * static_cast<G>(grad[place]);
    }
  }
};

template <typename T, typename G>
void spread_regions(const Family& f, const T* grad, const Plan<G>& plan, const int32_t* winner, std::vector<Tensor>& maps) {
  const int64_t block = kPlanesAtOnce;
  const int64_t blocks = (f.channels + block - 1) / block;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    Spreader<T, G> spreader{f, grad, plan, winner, maps};
    const int64_t start = begin * block, stop = std::min(end * block, f.channels);
    if (!f.channels_last && !winner) {
      for (int64_t which = 0; which < batches_of(f); ++which) spreader.spread_batch(which, start, stop);
      return;
    }
    const int64_t step = f.channels_last ? stop - start : kWinnerPlanesAtOnce;
    for (int64_t first = start; first < stop; first += step)
      for (const int64_t r : plan.order) spreader.spread(r, first, std::min(first + step, stop));
  });
}

std::vector<Tensor> roi_spread(Tensor grad, Tensor boxes, Tensor image, std::optional<Tensor> winner,
                               std::vector<int64_t> shape, std::vector<double> scales, std::vector<double> switches,
                               bool channels_last, bool /*atomic*/) {
  const ScalarType dtype = grad.scalar_type();
  check_boxes(boxes, dtype);
  const Family f = family_of(boxes, image, shape, grad.size(2), grad.size(3), scales, switches, channels_last);
  STD_TORCH_CHECK(grad.size(0) == f.regions && grad.size(1) == f.channels, "gradient: expected [R, C, P, P]");
  grad = torch::stable::contiguous(grad, format_of(f));
  if (winner) winner = settle_winner(*winner, f);
  const int32_t* frozen = winner ? winner->const_data_ptr<int32_t>() : nullptr;
  const ScalarType sums = dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  std::vector<Tensor> maps;
  for (int l = 0; l < f.levels; ++l) {
    maps.push_back(fresh_map(boxes, f.images, f.channels, f.level[l].height, f.level[l].width, sums, channels_last));
    torch::stable::zero_(maps.back());
  }
  by_dtype(dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    spread_regions<T, G>(f, grad.const_data_ptr<T>(), Plan<G>(f, boxes, image), frozen, maps);
  });
  if (dtype != sums) {
    for (Tensor& map : maps) map = torch::stable::to(map, dtype);
  }
  return maps;
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { m.impl("roi_spread", TORCH_BOX(&roi_spread)); }

}  // namespace
}  // namespace maskrcnn_ops

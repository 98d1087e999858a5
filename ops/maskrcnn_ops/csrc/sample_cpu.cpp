// roi_sample on the CPU: the mean over the points of every bin, or the value at given winners.
#include <torch/csrc/stable/library.h>

#include "plan.h"

namespace maskrcnn_ops {
namespace {

template <typename T, typename G>
struct Sampler {
  const Family& f;
  const std::vector<Tensor>& features;
  const Plan<G>& plan;
  const int32_t* winner;  // null for the mean
  T* out;
  Level output = output_strides(f);
  const Kernels<T, G>& loops = kernels<T, G>();

  RegionFilters<G> filters{};
  Batch<G> batch{};
  std::vector<G> scratch{};
  Points<G> y{};
  Points<G> x{};

  const T* map_of(const Region<G>& region) const {
    return features[region.level].template const_data_ptr<T>() + region.image * f.level[region.level].image_stride;
  }

  // Region r, channels first .. last - 1.
  void sample(int64_t r, int64_t first, int64_t last) {
    const Region<G>& region = plan.region[r];
    T* to = out + r * output.image_stride;
    if (!region.valid) {
      if (f.channels_last) std::fill_n(to, output.image_stride, T(0));
      else std::fill(to + first * output.channel_stride, to + last * output.channel_stride, T(0));
      return;
    }
    if (winner) return sample_winners(region, r, first, last);
    filters.build(f, region);
    sample_bins(region, filters, map_of(region), to, f.channels);
  }

  // Samples a batch of regions on contiguous planes first .. last - 1.
  void sample_batch(int64_t which, int64_t first, int64_t last) {
    batch.build(f, plan, which, loops.width);
    for (const auto& item : batch.item) {
      const Region<G>& region = plan.region[item.r];
      T* to = out + item.r * output.image_stride + first * output.channel_stride;
      if (region.valid && f.switches.position_sensitive)
        sample_bins(region, item.filters, map_of(region) + first * f.level[region.level].channel_stride, to, last - first);
      else if (region.valid) sample_planes(item, first, last);
      else std::fill_n(to, (last - first) * output.channel_stride, T(0));
    }
  }

  // Samples all bins of `channels` channels. `map` and `to` point at the first of them.
  void sample_bins(const Region<G>& region, const RegionFilters<G>& from, const T* map, T* to, int64_t channels) {
    const Level& level = f.level[region.level];
    for (int64_t p = 0; p < f.height; ++p)
      for (int64_t q = 0; q < f.width; ++q)
        loops.gather(map + (p * f.width + q) * level.bin_stride, level.channel_stride, from.taps(p, q),
                     to + p * output.row_stride + q * output.column_stride, output.channel_stride, channels);
  }

  // Prefetches the window of a region in the next plane. Its short rows are too far apart for the hardware prefetcher.
  static void fetch(const typename Batch<G>::Item& item, const T* plane) {
    for (const int64_t line : item.planes.line) __builtin_prefetch(plane + line);
  }

  void sample_planes(const typename Batch<G>::Item& item, int64_t first, int64_t last) {
    const Region<G>& region = plan.region[item.r];
    const Level& level = f.level[region.level];
    T* to = out + item.r * output.image_stride;
    scratch.resize(std::max<size_t>(scratch.size(), f.height * item.planes.taps.width));
    for (int64_t c = first; c < last; ++c) {
      const T* plane = map_of(region) + c * level.channel_stride;
      T* plane_out = to + c * output.channel_stride;
      if (item.dense && c + 1 < last) fetch(item, plane + level.channel_stride);
      if (item.dense && loops.plane_gather(plane, item.planes.taps, scratch.data(), plane_out)) continue;
      sample_bins(region, item.filters, plane, plane_out, 1);
    }
  }

  void sample_winners(const Region<G>& region, int64_t r, int64_t first, int64_t last) {
    const Level& level = f.level[region.level];
    y.build(region.y, f.height, f.switches);
    x.build(region.x, f.width, f.switches);
    for (int64_t p = 0; p < f.height; ++p) {
      for (int64_t q = 0; q < f.width; ++q) {
        for (int64_t c = first; c < last; ++c) {
          const int64_t at = r * output.image_stride + c * output.channel_stride + p * output.row_stride + q * output.column_stride;
          const T* map = map_of(region) + c * level.channel_stride;
          G sum = 0;
          if (winner[at] >= 0) {
            const Reads<G> read = reads_of_winner(y, x, p, q, winner[at], level, f.switches);
            for (int k = 0; k < 4; ++k)
              if (read.weight[k] != G(0)) sum += read.weight[k] * static_cast<G>(map[read.offset[k]]);
          }
          out[at] = static_cast<T>(sum);
        }
      }
    }
  }
};

template <typename T, typename G>
void sample_regions(const Family& f, const std::vector<Tensor>& features, const Plan<G>& plan, const int32_t* winner, T* out) {
  if (f.channels_last || winner) {
    torch::stable::parallel_for(0, f.regions, 1, [&](int64_t begin, int64_t end) {
      Sampler<T, G> sampler{f, features, plan, winner, out};
      for (int64_t i = begin; i < end; ++i) sampler.sample(plan.order[i], 0, f.channels);
    });
    return;
  }
  const int64_t blocks = (f.channels + kPlanesAtOnce - 1) / kPlanesAtOnce;
  torch::stable::parallel_for(0, batches_of(f) * blocks, 1, [&](int64_t begin, int64_t end) {
    Sampler<T, G> sampler{f, features, plan, winner, out};
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * kPlanesAtOnce;
      sampler.sample_batch(task / blocks, first, std::min(first + kPlanesAtOnce, f.channels));
    }
  });
}

Tensor roi_sample(std::vector<Tensor> features, Tensor boxes, Tensor image, std::optional<Tensor> winner, int64_t height,
                  int64_t width, std::vector<double> scales, std::vector<double> switches) {
  const bool channels_last = settle_layout(features);
  const ScalarType dtype = features[0].scalar_type();
  check_boxes(boxes, features[0]);
  const Family f = family_of(boxes, image, shape_of(features), height, width, scales, switches, channels_last);
  Tensor out = fresh_map(boxes, f.regions, f.channels, height, width, dtype, channels_last);
  if (winner) winner = settle_winner(*winner, boxes, f);
  const int32_t* frozen = winner ? winner->const_data_ptr<int32_t>() : nullptr;
  by_dtype(dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    sample_regions<T, G>(f, features, Plan<G>(f, boxes, image), frozen, out.mutable_data_ptr<T>());
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { m.impl("roi_sample", TORCH_BOX(&roi_sample)); }

}  // namespace
}  // namespace maskrcnn_ops

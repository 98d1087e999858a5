// The RoI operators on CUDA: one thread per value, all levels in one launch, nothing waits for the host.
// The adjoint gathers: each cell of a gradient map is summed by one thread over the regions in their order, so the
// sums are bitwise repeatable; `atomic` scatters instead.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <limits>

#include "roi_device.cuh"

namespace maskrcnn_ops {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kThreads = 256;

// Which value a thread computes; threads run along the fastest dimension of the layout.
struct Place {
  int64_t n, c, y, x;
};

__device__ inline Place place_of(int64_t index, int64_t channels, int64_t height, int64_t width, bool channels_last) {
  Place at{};
  if (channels_last) {
    at.c = index % channels;
    index /= channels;
  }
  at.x = index % width;
  index /= width;
  at.y = index % height;
  index /= height;
  if (!channels_last) {
    at.c = index % channels;
    index /= channels;
  }
  at.n = index;
  return at;
}

__device__ inline int64_t first_index() { return blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; }
__device__ inline int64_t all_threads() { return gridDim.x * static_cast<int64_t>(blockDim.x); }

template <typename T, typename G>
__global__ void sample_kernel(
    Family f, Maps maps, const G* boxes, const int64_t* image, const int32_t* winner, T* out, int64_t total) {
  for (int64_t index = first_index(); index < total; index += all_threads()) {
    const Place at = place_of(index, f.channels, f.height, f.width, f.channels_last);
    const Region<G> r = region_of(f, boxes + 4 * at.n, image[at.n]);
    G sum = 0;
    if (r.valid) {
      const Level& level = f.level[r.level];
      const T* map = static_cast<const T*>(maps.data[r.level]) + r.image * level.image_stride + at.c * level.channel_stride;
      if (winner) {
        if (winner[index] >= 0) {
          Tap<G> y, x;
          taps_of_winner(r, at.y, at.x, winner[index], level, f.switches, &y, &x);
          sum = value_at(map, level, y, x);
        }
      } else {
        const Span rows = points_of_bin(r.y, at.y, f.switches);
        const Span columns = points_of_bin(r.x, at.x, f.switches);
        for (int64_t i = rows.first; i < rows.first + rows.count; ++i) {
          const Tap<G> y = tap_of_point(r.y, at.y, i, f.switches);
          for (int64_t j = columns.first; j < columns.first + columns.count; ++j)
            sum += value_at(map, level, y, tap_of_point(r.x, at.x, j, f.switches));
        }
        sum /= static_cast<G>(divisor_of_bin(r.y, rows, f.switches) * divisor_of_bin(r.x, columns, f.switches));
      }
    }
    out[index] = static_cast<T>(sum);
  }
}

template <typename T, typename G>
__device__ inline void maximum_of_bin(
    const Family& f, const Region<G>& r, const Place& at, const T* map, G* best, int32_t* winner) {
  const Level& level = f.level[r.level];
  const Switches& s = f.switches;
  const Span rows = points_of_bin(r.y, at.y, s);
  const Span columns = points_of_bin(r.x, at.x, s);
  const bool outside = reaches_outside(r.y, rows, s) || reaches_outside(r.x, columns, s) || rows.count * columns.count == 0;
  *best = outside ? G(0) : -std::numeric_limits<G>::infinity();
  *winner = -1;
  for (int64_t i = 0; i < rows.count; ++i) {
    const Tap<G> y = tap_of_point(r.y, at.y, rows.first + i, s);
    for (int64_t j = 0; j < columns.count; ++j) {
      const G value = value_at(map, level, y, tap_of_point(r.x, at.x, columns.first + j, s));
      if (!(value > *best || value != value || (*winner < 0 && !outside))) continue;
      *best = value;
      *winner = static_cast<int32_t>(
          s.bin_rounding ? (rows.first + i) * level.width + columns.first + j : i * columns.count + j);
    }
  }
}

template <typename T, typename G>
__global__ void maximum_kernel(
    Family f, Maps maps, const G* boxes, const int64_t* image, T* out, int32_t* winner, int64_t total) {
  for (int64_t index = first_index(); index < total; index += all_threads()) {
    const Place at = place_of(index, f.channels, f.height, f.width, f.channels_last);
    const Region<G> r = region_of(f, boxes + 4 * at.n, image[at.n]);
    G best = 0;
    int32_t point = -1;
    if (r.valid) {
      const Level& level = f.level[r.level];
      const T* map = static_cast<const T*>(maps.data[r.level]) + r.image * level.image_stride + at.c * level.channel_stride;
      maximum_of_bin(f, r, at, map, &best, &point);
    }
    out[index] = static_cast<T>(best);
    winner[index] = point;
  }
}

// What one region passes to one cell of one channel, through the mean of its bins.
template <typename T, typename G>
__device__ inline G gathered_mean(const Family& f, const Region<G>& r, const Place& at, const T* grad, const Level& output) {
  G sum = 0;
  for (int64_t p = 0; p < f.height; ++p) {
    const G row = share_of_cell(r.y, p, at.y, f.switches);
    if (row == G(0)) continue;
    for (int64_t q = 0; q < f.width; ++q) {
      const G column = share_of_cell(r.x, q, at.x, f.switches);
      if (column != G(0)) sum += row * column * static_cast<G>(grad[p * output.row_stride + q * output.column_stride]);
    }
  }
  return sum;
}

// The same through the winners of its bins.
template <typename T, typename G>
__device__ inline G gathered_winners(
    const Family& f, const Region<G>& r, const Place& at, const T* grad, const int32_t* winner, const Level& output) {
  G sum = 0;
  for (int64_t p = 0; p < f.height; ++p) {
    for (int64_t q = 0; q < f.width; ++q) {
      const int64_t place = p * output.row_stride + q * output.column_stride;
      if (winner[place] < 0) continue;
      Tap<G> y, x;
      taps_of_winner(r, p, q, winner[place], f.level[r.level], f.switches, &y, &x);
      sum += weight_of(y, at.y) * weight_of(x, at.x) * static_cast<G>(grad[place]);
    }
  }
  return sum;
}

template <typename T, typename G>
__global__ void gather_kernel(
    Family f, int l, const T* grad, const G* boxes, const int64_t* image, const int32_t* winner, Level output, G* map,
    int64_t total) {
  const Level& level = f.level[l];
  for (int64_t index = first_index(); index < total; index += all_threads()) {
    const Place at = place_of(index, f.channels, level.height, level.width, f.channels_last);
    G sum = 0;
    for (int64_t k = 0; k < f.regions; ++k) {
      if (image[k] != at.n) continue;
      const Region<G> r = region_of(f, boxes + 4 * k, image[k]);
      if (!r.valid || r.level != l) continue;
      if (!may_read(r.y, f.height, at.y) || !may_read(r.x, f.width, at.x)) continue;
      const int64_t begin = k * output.image_stride + at.c * output.channel_stride;
      sum += winner ? gathered_winners(f, r, at, grad + begin, winner + begin, output)
                    : gathered_mean(f, r, at, grad + begin, output);
    }
    map[index] = sum;
  }
}

template <typename G>
__device__ inline void scatter_point(G* map, const Level& level, const Tap<G>& y, const Tap<G>& x, G part) {
  const int64_t low = y.low * level.row_stride;
  const int64_t high = y.high * level.row_stride;
  const int64_t left = x.low * level.column_stride;
  const int64_t right = x.high * level.column_stride;
  atomicAdd(map + low + left, part * y.weight_low * x.weight_low);
  atomicAdd(map + low + right, part * y.weight_low * x.weight_high);
  atomicAdd(map + high + left, part * y.weight_high * x.weight_low);
  atomicAdd(map + high + right, part * y.weight_high * x.weight_high);
}

template <typename T, typename G>
__global__ void scatter_kernel(
    Family f, Maps maps, const T* grad, const G* boxes, const int64_t* image, const int32_t* winner, int64_t total) {
  for (int64_t index = first_index(); index < total; index += all_threads()) {
    const Place at = place_of(index, f.channels, f.height, f.width, f.channels_last);
    const Region<G> r = region_of(f, boxes + 4 * at.n, image[at.n]);
    if (!r.valid || (winner && winner[index] < 0)) continue;
    const Level& level = f.level[r.level];
    G* map = static_cast<G*>(maps.data[r.level]) + r.image * level.image_stride + at.c * level.channel_stride;
    if (winner) {
      Tap<G> y, x;
      taps_of_winner(r, at.y, at.x, winner[index], level, f.switches, &y, &x);
      scatter_point(map, level, y, x, static_cast<G>(grad[index]));
      continue;
    }
    const Span rows = points_of_bin(r.y, at.y, f.switches);
    const Span columns = points_of_bin(r.x, at.x, f.switches);
    const int64_t count = divisor_of_bin(r.y, rows, f.switches) * divisor_of_bin(r.x, columns, f.switches);
    const G part = static_cast<G>(grad[index]) / static_cast<G>(count);
    for (int64_t i = rows.first; i < rows.first + rows.count; ++i) {
      const Tap<G> y = tap_of_point(r.y, at.y, i, f.switches);
      for (int64_t j = columns.first; j < columns.first + columns.count; ++j)
        scatter_point(map, level, y, tap_of_point(r.x, at.x, j, f.switches), part);
    }
  }
}

cudaStream_t stream_of(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

int blocks_for(int64_t total) {
  const int64_t blocks = (total + kThreads - 1) / kThreads;
  return static_cast<int>(blocks < 65536 ? blocks : 65536);
}

template <typename F>
void by_dtype(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Double: return f(double{}, double{});
    case ScalarType::Float: return f(float{}, float{});
    case ScalarType::BFloat16: return f(BFloat16{}, float{});
    case ScalarType::Half: return f(Half{}, float{});
    default: STD_TORCH_CHECK(false, "features: expected float64, float32, bfloat16 or float16");
  }
}

Maps maps_of(const std::vector<Tensor>& tensors) {
  Maps maps{};
  for (size_t l = 0; l < tensors.size(); ++l) maps.data[l] = tensors[l].data_ptr();
  return maps;
}

Tensor roi_sample(
    std::vector<Tensor> features, Tensor boxes, Tensor image, std::optional<Tensor> winner, int64_t height, int64_t width,
    std::vector<double> scales, std::vector<double> switches) {
  const bool channels_last = settle_layout(features);
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  const ScalarType dtype = features[0].scalar_type();
  const Family f = family_of(boxes, image, shape_of(features), height, width, scales, switches, channels_last);
  Tensor out = empty_map(boxes, f.regions, f.channels, height, width, dtype, channels_last);
  const auto format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  if (winner) winner = torch::stable::contiguous(*winner, format);
  const int64_t total = out.numel();
  if (total == 0) return out;
  by_dtype(dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    sample_kernel<T, G><<<blocks_for(total), kThreads, 0, stream_of(boxes)>>>(
        f, maps_of(features), boxes.const_data_ptr<G>(), image.const_data_ptr<int64_t>(),
        winner ? winner->const_data_ptr<int32_t>() : nullptr, out.mutable_data_ptr<T>(), total);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

std::tuple<Tensor, Tensor> roi_maximum(
    std::vector<Tensor> features, Tensor boxes, Tensor image, int64_t height, int64_t width, std::vector<double> scales,
    std::vector<double> switches) {
  const bool channels_last = settle_layout(features);
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  const ScalarType dtype = features[0].scalar_type();
  const Family f = family_of(boxes, image, shape_of(features), height, width, scales, switches, channels_last);
  Tensor out = empty_map(boxes, f.regions, f.channels, height, width, dtype, channels_last);
  Tensor winner = empty_map(boxes, f.regions, f.channels, height, width, ScalarType::Int, channels_last);
  const int64_t total = out.numel();
  if (total == 0) return {out, winner};
  by_dtype(dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    maximum_kernel<T, G><<<blocks_for(total), kThreads, 0, stream_of(boxes)>>>(
        f, maps_of(features), boxes.const_data_ptr<G>(), image.const_data_ptr<int64_t>(), out.mutable_data_ptr<T>(),
        winner.mutable_data_ptr<int32_t>(), total);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {out, winner};
}

template <typename T, typename G>
void spread(
    const Family& f, const Tensor& grad, const Tensor& boxes, const Tensor& image, const int32_t* winner, bool atomic,
    std::vector<Tensor>& maps) {
  const cudaStream_t stream = stream_of(boxes);
  const T* g = grad.const_data_ptr<T>();
  const G* b = boxes.const_data_ptr<G>();
  const int64_t* n = image.const_data_ptr<int64_t>();
  if (atomic) {
    for (Tensor& map : maps) torch::stable::zero_(map);
    const int64_t total = grad.numel();
    if (total > 0) scatter_kernel<T, G><<<blocks_for(total), kThreads, 0, stream>>>(f, maps_of(maps), g, b, n, winner, total);
    return;
  }
  const Level output = strides_of(f.channels, f.height, f.width, 1, f.channels_last);
  for (int l = 0; l < f.levels; ++l) {
    const int64_t total = maps[l].numel();
    if (total == 0) continue;
    gather_kernel<T, G><<<blocks_for(total), kThreads, 0, stream>>>(
        f, l, g, b, n, winner, output, maps[l].mutable_data_ptr<G>(), total);
  }
}

std::vector<Tensor> roi_spread(
    Tensor grad, Tensor boxes, Tensor image, std::optional<Tensor> winner, std::vector<int64_t> shape,
    std::vector<double> scales, std::vector<double> switches, bool channels_last, bool atomic) {
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  const ScalarType dtype = grad.scalar_type();
  const Family f = family_of(boxes, image, shape, grad.size(2), grad.size(3), scales, switches, channels_last);
  const auto format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  grad = torch::stable::contiguous(grad, format);
  if (winner) winner = torch::stable::contiguous(*winner, format);
  const ScalarType sums = dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  std::vector<Tensor> maps;
  for (int l = 0; l < f.levels; ++l)
    maps.push_back(empty_map(boxes, f.images, f.channels, f.level[l].height, f.level[l].width, sums, channels_last));
  const int32_t* frozen = winner ? winner->const_data_ptr<int32_t>() : nullptr;
  by_dtype(dtype, [&](auto t, auto g) {
    spread<decltype(t), decltype(g)>(f, grad, boxes, image, frozen, atomic, maps);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  if (dtype == ScalarType::BFloat16 || dtype == ScalarType::Half) {
    for (Tensor& map : maps) map = torch::stable::to(map, dtype);
  }
  return maps;
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) {
  m.impl("roi_sample", TORCH_BOX(&roi_sample));
  m.impl("roi_maximum", TORCH_BOX(&roi_maximum));
  m.impl("roi_spread", TORCH_BOX(&roi_spread));
}

}  // namespace
}  // namespace maskrcnn_ops

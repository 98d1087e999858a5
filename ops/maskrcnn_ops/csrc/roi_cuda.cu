// The RoI operators on CUDA. One launch serves all levels, and nothing synchronises with the host.
#include <torch/csrc/stable/library.h>

#include "cuda_runtime.cuh"
#include "roi_gather.cuh"

namespace maskrcnn_ops {
namespace {

// Shared memory of a block. Every device allows this much without opting in.
constexpr int64_t kSharedBytes = 40 * 1024;
constexpr int kMostBins = 256;  // height + width of the output
constexpr int64_t kMostBlocks = 65535;

template <int V>
struct Lanes {
  static constexpr int kCount = V;
};

// Uses vectors of 16 bytes if the layout and the addresses allow it, else single channels.
template <typename T, typename F>
void by_vector(bool possible, const F& f) {
  if (possible) f(Lanes<16 / sizeof(T)>{});
  else f(Lanes<1>{});
}

Maps maps_of(const std::vector<Tensor>& tensors) {
  Maps maps{};
  for (size_t l = 0; l < tensors.size(); ++l) maps.data[l] = tensors[l].data_ptr();
  return maps;
}

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

template <typename T>
bool takes_vectors(const Family& f, const std::vector<Tensor>& maps, const Tensor& regions) {
  if (!f.channels_last || f.inputs != f.channels || f.channels % (16 / sizeof(T)) != 0 || !is_aligned(regions.data_ptr())) return false;
  for (const Tensor& map : maps)
    if (!is_aligned(map.data_ptr())) return false;
  return true;
}

// One block for each region, or more if each thread would compute over 16 values.
dim3 blocks_for(const Family& f, int vector) {
  STD_TORCH_CHECK(f.channels * f.height * f.width < 2147483648LL - 65536 * kThreads,
                  "output of ", f.channels, " x ", f.height, " x ", f.width, " values per region: too many for CUDA");
  const int64_t items = f.channels * f.height * f.width / vector;
  const int64_t parts = (items + 16 * kThreads - 1) / (16 * kThreads);
  return dim3(static_cast<unsigned>(f.regions), static_cast<unsigned>(parts < kMostBlocks ? parts : kMostBlocks));
}

template <typename G>
size_t bytes_of_taps(const Family& f) {
  return static_cast<size_t>(f.height + f.width) * sizeof(TapList<G>);
}

void check_size(const Family& f) {
  STD_TORCH_CHECK(f.height + f.width <= kMostBins, "output size: on CUDA height + width is at most ", kMostBins, ", found ",
                  f.height, " x ", f.width);
  for (int l = 0; l < f.levels; ++l)
    STD_TORCH_CHECK(f.level[l].height < 2147483648LL && f.level[l].width < 2147483648LL, "features: a side is too long");
}

Tensor roi_sample(
    std::vector<Tensor> features, Tensor boxes, Tensor image, std::optional<Tensor> winner, int64_t height, int64_t width,
    std::vector<double> scales, std::vector<double> switches) {
  const bool channels_last = settle_layout(features);
  check_boxes(boxes, features[0]);
  const DeviceGuard guard(boxes.get_device_index());
  const ScalarType dtype = features[0].scalar_type();
  const Family f = family_of(boxes, image, shape_of(features), height, width, scales, switches, channels_last);
  check_size(f);
  Tensor out = empty_map(boxes, f.regions, f.channels, height, width, dtype, channels_last);
  if (out.numel() == 0) return out;
  if (winner) winner = settle_winner(*winner, boxes, f);
  by_dtype(dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    const G* b = boxes.const_data_ptr<G>();
    const int64_t* n = image.const_data_ptr<int64_t>();
    T* to = out.mutable_data_ptr<T>();
    if (winner) {
      MASKRCNN_LAUNCH((winners_kernel<T, G>), blocks_for(f, 1), kThreads, 0, stream_of(boxes), f, maps_of(features), b, n,
                      winner->const_data_ptr<int32_t>(), to);
      return;
    }
    by_vector<T>(takes_vectors<T>(f, features, out), [&](auto lanes) {
      constexpr int V = decltype(lanes)::kCount;
      MASKRCNN_LAUNCH((mean_kernel<T, G, V>), blocks_for(f, V), kThreads, bytes_of_taps<G>(f), stream_of(boxes), f,
                      maps_of(features), b, n, to);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> roi_maximum(
    std::vector<Tensor> features, Tensor boxes, Tensor image, int64_t height, int64_t width, std::vector<double> scales,
    std::vector<double> switches) {
  const bool channels_last = settle_layout(features);
  check_boxes(boxes, features[0]);
  const DeviceGuard guard(boxes.get_device_index());
  const ScalarType dtype = features[0].scalar_type();
  const Family f = family_of(boxes, image, shape_of(features), height, width, scales, switches, channels_last);
  check_size(f);
  check_winners_fit(f);
  Tensor out = empty_map(boxes, f.regions, f.channels, height, width, dtype, channels_last);
  Tensor winner = empty_map(boxes, f.regions, f.channels, height, width, ScalarType::Int, channels_last);
  if (out.numel() == 0) return {out, winner};
  by_dtype(dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    by_vector<T>(f.switches.bin_rounding && takes_vectors<T>(f, features, out) && is_aligned(winner.data_ptr()), [&](auto lanes) {
      constexpr int V = decltype(lanes)::kCount;
      MASKRCNN_LAUNCH((maximum_kernel<T, G, V>), blocks_for(f, V), kThreads, 0, stream_of(boxes), f, maps_of(features),
                      boxes.const_data_ptr<G>(), image.const_data_ptr<int64_t>(), out.mutable_data_ptr<T>(),
                      winner.mutable_data_ptr<int32_t>());
    });
  });
  return {out, winner};
}

// Adds with atomics into sums of type G.
template <typename T, typename G>
void scatter(const Family& f, const Tensor& grad, const Tensor& boxes, const Tensor& image, const int32_t* winner,
             std::vector<Tensor>& maps) {
  for (Tensor& map : maps) torch::stable::zero_(map);
  if (grad.numel() == 0) return;
  MASKRCNN_LAUNCH((scatter_kernel<T, G>), blocks_for(f, 1), kThreads, bytes_of_taps<G>(f), stream_of(boxes), f, maps_of(maps),
                  grad.const_data_ptr<T>(), boxes.const_data_ptr<G>(), image.const_data_ptr<int64_t>(), winner);
}

template <typename T, typename G>
void gather(const Family& f, const Tensor& grad, const Tensor& boxes, const Tensor& image, const int32_t* winner,
            std::vector<Tensor>& maps) {
  int64_t tiles = 0;
  for (int l = 0; l < f.levels; ++l) tiles += f.images * tiles_along(f.level[l].height) * tiles_along(f.level[l].width);
  if (tiles == 0 || f.channels == 0) return;
  STD_TORCH_CHECK(tiles < 2147483648LL, "features: maps of too many cells for CUDA");
  const int64_t of_footprints = f.regions * static_cast<int64_t>(sizeof(Footprint<G>));
  const int64_t bytes[] = {of_footprints + rounds_of(f.regions) * static_cast<int64_t>(sizeof(Round))};
  Tensor memory = torch::stable::empty(
      torch::headeronly::IntHeaderOnlyArrayRef(bytes, 1), ScalarType::Byte, std::nullopt, boxes.device());
  auto* footprints = static_cast<Footprint<G>*>(memory.data_ptr());
  auto* rounds = reinterpret_cast<Round*>(static_cast<char*>(memory.data_ptr()) + of_footprints);
  if (f.regions > 0) {
    MASKRCNN_LAUNCH((footprint_kernel<G>), dim3(static_cast<unsigned>(rounds_of(f.regions))), kThreads, 0, stream_of(boxes),
                    f, boxes.const_data_ptr<G>(), image.const_data_ptr<int64_t>(), footprints, rounds);
  }
  const int64_t of_region = (f.height + f.width) * kTile * static_cast<int64_t>(sizeof(G));
  const int at_once = static_cast<int>(kSharedBytes / of_region < kThreads ? kSharedBytes / of_region : kThreads);
  by_vector<T>(takes_vectors<T>(f, maps, grad) && is_aligned(winner), [&](auto lanes) {
    constexpr int V = decltype(lanes)::kCount;
    const int64_t parts = (f.inputs + kLanes * V - 1) / (kLanes * V);
    STD_TORCH_CHECK(parts <= kMostBlocks, "features: too many channels for CUDA, ", f.inputs);
    const dim3 blocks(static_cast<unsigned>(tiles), static_cast<unsigned>(parts));
    const auto kernel = winner ? gather_kernel<T, G, V, true> : gather_kernel<T, G, V, false>;
    MASKRCNN_LAUNCH(kernel, blocks, kThreads, static_cast<size_t>(at_once * of_region), stream_of(boxes), f, footprints,
                    rounds, at_once, grad.const_data_ptr<T>(), winner, maps_of(maps));
  });
}

std::vector<Tensor> empty_maps(const Family& f, const Tensor& like, ScalarType dtype, bool channels_last) {
  std::vector<Tensor> maps;
  for (int l = 0; l < f.levels; ++l)
    maps.push_back(empty_map(like, f.images, f.inputs, f.level[l].height, f.level[l].width, dtype, channels_last));
  return maps;
}

std::vector<Tensor> roi_spread(
    Tensor grad, Tensor boxes, Tensor image, std::optional<Tensor> winner, std::vector<int64_t> shape,
    std::vector<double> scales, std::vector<double> switches, bool channels_last, bool atomic) {
  check_boxes(boxes, grad);
  const DeviceGuard guard(boxes.get_device_index());
  const ScalarType dtype = grad.scalar_type();
  // Gathering needs channels-last maps: transposing twice is faster than reading cell by cell.
  const bool along_channels = channels_last || !atomic;
  const Family f = family_of(boxes, image, shape, grad.size(2), grad.size(3), scales, switches, along_channels);
  check_size(f);
  STD_TORCH_CHECK(grad.size(0) == f.regions && grad.size(1) == f.channels, "gradient: expected [R, C, P, P]");
  grad = torch::stable::contiguous(grad, along_channels ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  if (winner) winner = settle_winner(*winner, boxes, f);
  const int32_t* frozen = winner ? winner->const_data_ptr<int32_t>() : nullptr;
  const ScalarType sums = dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  std::vector<Tensor> maps = empty_maps(f, boxes, atomic ? sums : dtype, along_channels);
  by_dtype(dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    if (atomic) scatter<T, G>(f, grad, boxes, image, frozen, maps);
    else gather<T, G>(f, grad, boxes, image, frozen, maps);
  });
  for (Tensor& map : maps) {
    if (atomic && dtype != sums) map = torch::stable::to(map, dtype);
    if (!channels_last) map = torch::stable::contiguous(map, MemoryFormat::Contiguous);
  }
  return maps;
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, MASKRCNN_DEVICE, m) {
  m.impl("roi_sample", TORCH_BOX(&roi_sample));
  m.impl("roi_maximum", TORCH_BOX(&roi_maximum));
  m.impl("roi_spread", TORCH_BOX(&roi_spread));
}

}  // namespace

#ifdef __CUDA_ARCH_LIST__
#define MASKRCNN_TEXT(...) #__VA_ARGS__
#define MASKRCNN_VALUE(...) MASKRCNN_TEXT(__VA_ARGS__)
// kernels.py searches the file for this text before it loads the library.
extern "C" __attribute__((visibility("default"))) const char* maskrcnn_ops_architectures() {
  return "maskrcnn_ops for CUDA architectures " MASKRCNN_VALUE(__CUDA_ARCH_LIST__);
}
#endif

}  // namespace maskrcnn_ops

// The RoI operators on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <limits>

#include "region.h"

namespace maskrcnn_ops {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

template <typename F>
auto by_dtype(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Double: return f(double{}, double{});
    case ScalarType::Float: return f(float{}, float{});
    case ScalarType::BFloat16: return f(BFloat16{}, float{});
    case ScalarType::Half: return f(Half{}, float{});
    default: STD_TORCH_CHECK(false, "features: expected float64, float32, bfloat16 or float16");
  }
}

void check_boxes(const Tensor& boxes, ScalarType features) {
  const auto expected = features == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(boxes.scalar_type() == expected, "boxes: expected float64 with float64 features, else float32");
}

// Adds to each channel of `out` (or of the map, for the adjoint) through the reads of the bins of region r.
template <typename T, typename G>
struct Walker {
  const Family& f;
  const G* boxes;
  const int64_t* image;
  const int32_t* winner;  // null: the mean over the points of a bin
  Level output;

  Points<G> y{};
  Points<G> x{};
  std::vector<Reads<G>> reads{};

  // Calls visit(region, output offset, reads, count, share) for each bin and channel; the mean has count points of
  // weight share, a frozen maximum its winner alone.
  template <typename Visit>
  void walk(int64_t r, int64_t first_channel, int64_t last_channel, const Visit& visit) {
    const Region<G> region = region_of(f, boxes + 4 * r, image[r]);
    if (!region.valid) return;
    const Level& level = f.level[region.level];
    y.build(region.y, f.height, f.switches);
    x.build(region.x, f.width, f.switches);
    for (int64_t p = 0; p < f.height; ++p) {
      for (int64_t q = 0; q < f.width; ++q) {
        const int64_t place = r * output.image_stride + p * output.row_stride + q * output.column_stride;
        if (winner) walk_winners(region, p, q, place, first_channel, last_channel, visit);
        else {
          reads_of_bin(y, x, p, q, level, reads);
          const G share = G(1) / static_cast<G>(y.divisor[p] * x.divisor[q]);
          for (int64_t c = first_channel; c < last_channel; ++c)
            visit(region, c, place + c * output.channel_stride, reads.data(), static_cast<int64_t>(reads.size()), share);
        }
      }
    }
  }

  template <typename Visit>
  void walk_winners(const Region<G>& region, int64_t p, int64_t q, int64_t place, int64_t first_channel, int64_t last_channel, const Visit& visit) {
    const Level& level = f.level[region.level];
    for (int64_t c = first_channel; c < last_channel; ++c) {
      const int64_t at = place + c * output.channel_stride;
      if (winner[at] < 0) continue;
      const Reads<G> read = reads_of_winner(y, x, p, q, winner[at], level, f.switches);
      visit(region, c, at, &read, 1, G(1));
    }
  }
};

template <typename T, typename G>
void sample_regions(const Family& f, const std::vector<Tensor>& features, const G* boxes, const int64_t* image, const int32_t* winner, T* out) {
  const Level output = strides_of(f.channels, f.height, f.width, 1, f.channels_last);
  torch::stable::parallel_for(0, f.regions, 1, [&](int64_t begin, int64_t end) {
    Walker<T, G> walker{f, boxes, image, winner, output};
    std::fill(out + begin * output.image_stride, out + end * output.image_stride, T(0));
    for (int64_t r = begin; r < end; ++r) {
      walker.walk(r, 0, f.channels, [&](const Region<G>& region, int64_t c, int64_t at, const Reads<G>* reads, int64_t count, G share) {
        const Level& level = f.level[region.level];
        const T* map = features[region.level].template const_data_ptr<T>() + region.image * level.image_stride + c * level.channel_stride;
        G sum = 0;
        for (int64_t i = 0; i < count; ++i)
          for (int k = 0; k < 4; ++k) sum += reads[i].weight[k] * static_cast<G>(map[reads[i].offset[k]]);
        out[at] = static_cast<T>(sum * share);
      });
    }
  });
}

template <typename T, typename G>
void spread_regions(const Family& f, const T* grad, const G* boxes, const int64_t* image, const int32_t* winner, std::vector<Tensor>& maps) {
  const Level output = strides_of(f.channels, f.height, f.width, 1, f.channels_last);
  // Every thread owns channels, so that no two add to one cell and the order of the additions is always the same.
  torch::stable::parallel_for(0, f.channels, 1, [&](int64_t begin, int64_t end) {
    Walker<T, G> walker{f, boxes, image, winner, output};
    for (int64_t r = 0; r < f.regions; ++r) {
      walker.walk(r, begin, end, [&](const Region<G>& region, int64_t c, int64_t at, const Reads<G>* reads, int64_t count, G share) {
        const Level& level = f.level[region.level];
        G* map = maps[region.level].template mutable_data_ptr<G>() + region.image * level.image_stride + c * level.channel_stride;
        const G part = static_cast<G>(grad[at]) * share;
        for (int64_t i = 0; i < count; ++i)
          for (int k = 0; k < 4; ++k) map[reads[i].offset[k]] += reads[i].weight[k] * part;
      });
    }
  });
}

template <typename T, typename G>
void maximum_of_region(const Family& f, const std::vector<Tensor>& features, const Region<G>& region, int64_t r, const Level& output, Points<G>& y, Points<G>& x, std::vector<Reads<G>>& reads, T* out, int32_t* winner) {
  const Level& level = f.level[region.level];
  const T* map = features[region.level].template const_data_ptr<T>() + region.image * level.image_stride;
  y.build(region.y, f.height, f.switches);
  x.build(region.x, f.width, f.switches);
  for (int64_t p = 0; p < f.height; ++p) {
    for (int64_t q = 0; q < f.width; ++q) {
      reads_of_bin(y, x, p, q, level, reads);
      const bool outside = (y.outside[p] || x.outside[q]) || reads.empty();
      for (int64_t c = 0; c < f.channels; ++c) {
        G best = outside ? G(0) : -std::numeric_limits<G>::infinity();
        int64_t point = -1;
        for (size_t i = 0; i < reads.size(); ++i) {
          G value = 0;
          for (int k = 0; k < 4; ++k) value += reads[i].weight[k] * static_cast<G>(map[reads[i].offset[k] + c * level.channel_stride]);
          if (value > best || value != value || (point < 0 && !outside)) {
            best = value;
            point = static_cast<int64_t>(i);
          }
        }
        const int64_t at = r * output.image_stride + c * output.channel_stride + p * output.row_stride + q * output.column_stride;
        out[at] = static_cast<T>(best);
        winner[at] = point < 0 ? -1 : winner_of(y, x, p, q, point, level, f.switches);
      }
    }
  }
}

template <typename T, typename G>
void maximum_regions(const Family& f, const std::vector<Tensor>& features, const G* boxes, const int64_t* image, T* out, int32_t* winner) {
  const Level output = strides_of(f.channels, f.height, f.width, 1, f.channels_last);
  torch::stable::parallel_for(0, f.regions, 1, [&](int64_t begin, int64_t end) {
    Points<G> y;
    Points<G> x;
    std::vector<Reads<G>> reads;
    for (int64_t r = begin; r < end; ++r) {
      const Region<G> region = region_of(f, boxes + 4 * r, image[r]);
      if (region.valid) {
        maximum_of_region(f, features, region, r, output, y, x, reads, out, winner);
        continue;
      }
      std::fill_n(out + r * output.image_stride, output.image_stride, T(0));
      std::fill_n(winner + r * output.image_stride, output.image_stride, -1);
    }
  });
}

Tensor roi_sample(std::vector<Tensor> features, Tensor boxes, Tensor image, std::optional<Tensor> winner, int64_t height, int64_t width, std::vector<double> scales, std::vector<double> switches) {
  const bool channels_last = settle_layout(features);
  const ScalarType dtype = features[0].scalar_type();
  check_boxes(boxes, dtype);
  const Family f = family_of(boxes, image, shape_of(features), height, width, scales, switches, channels_last);
  Tensor out = empty_map(boxes, f.regions, f.channels, height, width, dtype, channels_last);
  const auto format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  if (winner) winner = torch::stable::contiguous(*winner, format);
  const int32_t* frozen = winner ? winner->const_data_ptr<int32_t>() : nullptr;
  by_dtype(dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    sample_regions<T, G>(f, features, boxes.const_data_ptr<G>(), image.const_data_ptr<int64_t>(), frozen, out.mutable_data_ptr<T>());
  });
  return out;
}

std::tuple<Tensor, Tensor> roi_maximum(std::vector<Tensor> features, Tensor boxes, Tensor image, int64_t height, int64_t width, std::vector<double> scales, std::vector<double> switches) {
  const bool channels_last = settle_layout(features);
  const ScalarType dtype = features[0].scalar_type();
  check_boxes(boxes, dtype);
  const Family f = family_of(boxes, image, shape_of(features), height, width, scales, switches, channels_last);
  Tensor out = empty_map(boxes, f.regions, f.channels, height, width, dtype, channels_last);
  Tensor winner = empty_map(boxes, f.regions, f.channels, height, width, ScalarType::Int, channels_last);
  by_dtype(dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    maximum_regions<T, G>(f, features, boxes.const_data_ptr<G>(), image.const_data_ptr<int64_t>(), out.mutable_data_ptr<T>(), winner.mutable_data_ptr<int32_t>());
  });
  return {out, winner};
}

std::vector<Tensor> roi_spread(Tensor grad, Tensor boxes, Tensor image, std::optional<Tensor> winner, std::vector<int64_t> shape, std::vector<double> scales, std::vector<double> switches, bool channels_last, bool) {
  const ScalarType dtype = grad.scalar_type();
  check_boxes(boxes, dtype);
  const Family f = family_of(boxes, image, shape, grad.size(2), grad.size(3), scales, switches, channels_last);
  const auto format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  grad = torch::stable::contiguous(grad, format);
  if (winner) winner = torch::stable::contiguous(*winner, format);
  const int32_t* frozen = winner ? winner->const_data_ptr<int32_t>() : nullptr;
  std::vector<Tensor> maps;
  for (int l = 0; l < f.levels; ++l) {
    const ScalarType sums = dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    maps.push_back(empty_map(boxes, f.images, f.channels, f.level[l].height, f.level[l].width, sums, channels_last));
    torch::stable::zero_(maps.back());
  }
  by_dtype(dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    spread_regions<T, G>(f, grad.const_data_ptr<T>(), boxes.const_data_ptr<G>(), image.const_data_ptr<int64_t>(), frozen, maps);
  });
  if (dtype == ScalarType::BFloat16 || dtype == ScalarType::Half) {
    for (Tensor& map : maps) map = torch::stable::to(map, dtype);
  }
  return maps;
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) {
  m.impl("roi_sample", TORCH_BOX(&roi_sample));
  m.impl("roi_maximum", TORCH_BOX(&roi_maximum));
  m.impl("roi_spread", TORCH_BOX(&roi_spread));
}

}  // namespace
}  // namespace maskrcnn_ops

// Checks and unpacks the arguments of the RoI operators (host code only).
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <optional>
#include <vector>

#include "geometry.h"

namespace maskrcnn_ops {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Unpacks the `switches` argument of the operators; switches.py packs it in this order.
inline Switches unpack(const std::vector<double>& packed) {
  STD_TORCH_CHECK(packed.size() == 11, "switches: expected 11 numbers, found ", packed.size(),
                  "; export the program again with this version of maskrcnn_ops");
  Switches s;
  s.rounding = static_cast<Rounding>(static_cast<int>(packed[0]));
  s.plus_one = packed[1] != 0;
  s.offset = packed[2];
  s.min_width = packed[3];
  s.bin_rounding = packed[4] != 0;
  s.sampling_ratio = static_cast<int>(packed[5]);
  s.position = static_cast<Position>(static_cast<int>(packed[6]));
  s.border = static_cast<Border>(static_cast<int>(packed[7]));
  s.position_sensitive = packed[8] != 0;
  s.canonical_size = packed[9];
  s.canonical_level = packed[10];
  return s;
}

// Calls f with a value of the type of the features and one of the type of the sums and the geometry.
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

// One map of the pyramid: [images, inputs, height, width], strides in elements. Bin b of output channel c reads the
// channel that begins at c * channel_stride + b * bin_stride. That is all that sets position-sensitive maps apart.
struct Level {
  int64_t height;
  int64_t width;
  double scale;  // 1 / stride
  int64_t image_stride;
  int64_t channel_stride;
  int64_t row_stride;
  int64_t column_stride;
  int64_t bin_stride;  // 0 unless the map is position-sensitive
};

// Everything about a call except the data of the tensors.
struct Family {
  Switches switches;
  int levels;
  Level level[kMaxLevels];
  double octaves[kMaxLevels];
  int64_t images;
  int64_t inputs;    // channels of the maps
  int64_t channels;  // channels of the output
  int64_t regions;
  int64_t height;  // of the output
  int64_t width;
  bool channels_last;
};

// Whether t is channels-last and not also contiguous. With dimensions of size 1 it may be both.
inline bool is_channels_last(const Tensor& t) {
  int64_t expected = 1;
  for (const int d : {1, 3, 2, 0}) {
    if (t.size(d) != 1 && t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return !t.is_contiguous();
}

inline Level strides_of(int64_t channels, int64_t height, int64_t width, double scale, bool channels_last) {
  const int64_t plane = height * width;
  return channels_last ? Level{height, width, scale, channels * plane, 1, width * channels, channels, 0}
                       : Level{height, width, scale, channels * plane, plane, width, 1, 0};
}

inline Tensor empty_map(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w, ScalarType dtype, bool channels_last) {
  const int64_t sizes[] = {n, c, h, w};
  return torch::stable::empty(
      torch::headeronly::IntHeaderOnlyArrayRef(sizes, 4), dtype, std::nullopt, like.device(), std::nullopt,
      channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index();
}

// `features` is a map or the gradient of the output.
inline void check_boxes(const Tensor& boxes, const Tensor& features) {
  STD_TORCH_CHECK(same_device(boxes, features), "boxes: expected on the device of the features");
  const auto expected = features.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(boxes.scalar_type() == expected, "boxes: expected float64 with float64 features, else float32");
}

// `shape` holds the number of images and channels, then height and width of every level from fine to coarse.
inline Family family_of(
    const Tensor& boxes, const Tensor& image, const std::vector<int64_t>& shape, int64_t height, int64_t width,
    const std::vector<double>& scales, const std::vector<double>& switches, bool channels_last) {
  const size_t levels = scales.size();
  STD_TORCH_CHECK(levels >= 1 && levels <= kMaxLevels, "expected 1 to ", kMaxLevels, " levels, found ", levels);
  STD_TORCH_CHECK(shape.size() == 2 + 2 * levels, "expected a height and a width for each of ", levels, " levels");
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes: expected [R, 4]");
  STD_TORCH_CHECK(boxes.is_contiguous() && image.is_contiguous(), "boxes and image indices: expected contiguous");
  STD_TORCH_CHECK(image.dim() == 1 && image.size(0) == boxes.size(0), "image indices: expected one for each box");
  STD_TORCH_CHECK(image.scalar_type() == ScalarType::Long, "image indices: expected int64");
  STD_TORCH_CHECK(same_device(image, boxes), "image indices: expected on the device of the boxes");
  STD_TORCH_CHECK(height > 0 && width > 0, "output size: expected at least 1 x 1, found ", height, " x ", width);
  const Switches s = unpack(switches);
  const int64_t group = s.position_sensitive ? height * width : 1;
  STD_TORCH_CHECK(shape[1] % group == 0, "features: position_sensitive takes a multiple of P * P = ", group,
                  " channels, found ", shape[1]);
  Family f{s, static_cast<int>(levels), {}, {}, shape[0], shape[1], shape[1] / group, boxes.size(0), height, width, channels_last};
  for (size_t l = 0; l < levels; ++l) {
    STD_TORCH_CHECK(scales[l] > 0, "scales: expected positive numbers, found ", scales[l]);
    f.level[l] = strides_of(f.inputs, shape[2 + 2 * l], shape[3 + 2 * l], scales[l], channels_last);
    if (s.position_sensitive) f.level[l].bin_stride = f.level[l].channel_stride;
    f.level[l].channel_stride *= group;
    f.octaves[l] = -std::log2(scales[l]);
  }
  return f;
}

// Checks that the levels match and converts them to the layout of the first. Copies only if the layout differs.
inline bool settle_layout(std::vector<Tensor>& features) {
  STD_TORCH_CHECK(!features.empty(), "features: expected at least one level");
  STD_TORCH_CHECK(features[0].dim() == 4, "features: expected [N, C, H, W]");
  const bool channels_last = is_channels_last(features[0]);
  for (Tensor& f : features) {
    STD_TORCH_CHECK(f.dim() == 4, "features: expected [N, C, H, W]");
    STD_TORCH_CHECK(f.scalar_type() == features[0].scalar_type(), "features: expected one dtype at all levels");
    STD_TORCH_CHECK(same_device(f, features[0]), "features: expected one device for all levels");
    STD_TORCH_CHECK(f.size(0) == features[0].size(0) && f.size(1) == features[0].size(1),
                    "features: expected the same images and channels at all levels");
    f = torch::stable::contiguous(f, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  }
  return channels_last;
}

inline std::vector<int64_t> shape_of(const std::vector<Tensor>& features) {
  std::vector<int64_t> shape{features[0].size(0), features[0].size(1)};
  for (const Tensor& f : features) {
    shape.push_back(f.size(2));
    shape.push_back(f.size(3));
  }
  return shape;
}

// Winners are int32: cells of the map, or samples of a bin. An adaptive bin has about two samples for each cell.
inline void check_winners_fit(const Family& f) {
  STD_TORCH_CHECK(!f.switches.position_sensitive, "position_sensitive takes the mean alone");
  for (int l = 0; l < f.levels; ++l) {
    const double cells = static_cast<double>(f.level[l].height + 2) * static_cast<double>(f.level[l].width + 2);
    STD_TORCH_CHECK(16 * cells < 2147483648.0, "a maximum needs maps of less than 2^27 cells, found ", f.level[l].height,
                    " x ", f.level[l].width);
  }
}

inline Tensor settle_winner(const Tensor& winner, const Tensor& boxes, const Family& f) {
  check_winners_fit(f);
  STD_TORCH_CHECK(same_device(winner, boxes), "winner: expected on the device of the boxes");
  STD_TORCH_CHECK(winner.scalar_type() == ScalarType::Int && winner.dim() == 4 && winner.size(0) == f.regions &&
                      winner.size(1) == f.channels && winner.size(2) == f.height && winner.size(3) == f.width,
                  "winner: expected int32 of the output's shape");
  return torch::stable::contiguous(winner, f.channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace maskrcnn_ops

// Whether one box suppresses another: shared by the CPU and the CUDA kernel.
#pragma once

#include <torch/headeronly/macros/Macros.h>

namespace maskrcnn_ops {

// Intersection over union above the threshold, in the order of operations of torchvision's nms (compile without FMA
// contraction, so that the decisions are the same); 0 / 0, two empty boxes, is no overlap.
template <typename G>
C10_HOST_DEVICE inline bool overlaps(const G* a, const G* b, double threshold) {
  const G left = a[0] > b[0] ? a[0] : b[0];
  const G top = a[1] > b[1] ? a[1] : b[1];
  const G right = a[2] < b[2] ? a[2] : b[2];
  const G bottom = a[3] < b[3] ? a[3] : b[3];
  const G width = right - left > G(0) ? right - left : G(0);
  const G height = bottom - top > G(0) ? bottom - top : G(0);
  const G shared = width * height;
  const G area_a = (a[2] - a[0]) * (a[3] - a[1]);
  const G area_b = (b[2] - b[0]) * (b[3] - b[1]);
  return shared / (area_a + area_b - shared) > threshold;
}

}  // namespace maskrcnn_ops

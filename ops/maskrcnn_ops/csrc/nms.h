// Shared by the CPU and the CUDA kernel of non-maximum suppression: argument checks, and the comparison of two boxes.
#pragma once

#include "family.h"

namespace maskrcnn_ops {

template <typename G>
struct Corners {
  G x1, y1, x2, y2;
};

// Intersection over union, in the order of operations of torchvision's nms. Compile without FMA contraction, so that the
// decisions are the same. Two empty boxes give 0 / 0 = NaN, which is above no threshold.
template <typename G>
C10_HOST_DEVICE inline G overlap(const Corners<G>& a, const Corners<G>& b) {
  const G left = a.x1 > b.x1 ? a.x1 : b.x1;
  const G top = a.y1 > b.y1 ? a.y1 : b.y1;
  const G right = a.x2 < b.x2 ? a.x2 : b.x2;
  const G bottom = a.y2 < b.y2 ? a.y2 : b.y2;
  const G width = right - left > G(0) ? right - left : G(0);
  const G height = bottom - top > G(0) ? bottom - top : G(0);
  const G shared = width * height;
  const G area_a = (a.x2 - a.x1) * (a.y2 - a.y1);
  const G area_b = (b.x2 - b.x1) * (b.y2 - b.y1);
  return shared / (area_a + area_b - shared);
}

template <typename G>
C10_HOST_DEVICE inline bool overlaps(const G* a, const G* b, double threshold) {
  return overlap(Corners<G>{a[0], a[1], a[2], a[3]}, Corners<G>{b[0], b[1], b[2], b[3]}) > threshold;
}

inline void check_suppression(const Tensor& boxes, const Tensor& order, const Tensor& groups, const Tensor& valid) {
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(2) == 4 && boxes.is_contiguous(), "boxes: expected contiguous [N, K, 4]");
  for (const Tensor& t : {order, groups, valid}) {
    STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == boxes.size(0) && t.size(1) == boxes.size(1) && t.is_contiguous(),
                    "order, groups and valid: expected contiguous [N, K]");
    STD_TORCH_CHECK(same_device(t, boxes), "order, groups and valid: expected on the device of the boxes");
  }
}

}  // namespace maskrcnn_ops

// Greedy non-maximum suppression over a batch of images and groups on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "nms.h"

namespace maskrcnn_ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Boxes of one image in falling order of score; keep[k] says of box k whether it stays.
template <typename G>
void suppress(const G* boxes, const int64_t* order, const int64_t* groups, const bool* valid, int64_t count, double threshold, bool* keep) {
  std::vector<uint8_t> gone(count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t a = order[i];
    keep[a] = valid[a] && !gone[i];
    if (!keep[a]) continue;
    for (int64_t j = i + 1; j < count; ++j) {
      const int64_t b = order[j];
      if (!gone[j] && groups[a] == groups[b]) gone[j] = overlaps(boxes + 4 * a, boxes + 4 * b, threshold);
    }
  }
}

template <typename G>
void suppress_images(const Tensor& boxes, const Tensor& order, const Tensor& groups, const Tensor& valid, double threshold, Tensor& keep) {
  const int64_t count = boxes.size(1);
  torch::stable::parallel_for(0, boxes.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      suppress(boxes.const_data_ptr<G>() + 4 * n * count, order.const_data_ptr<int64_t>() + n * count,
               groups.const_data_ptr<int64_t>() + n * count, valid.const_data_ptr<bool>() + n * count, count, threshold,
               keep.mutable_data_ptr<bool>() + n * count);
  });
}

Tensor nms(Tensor boxes, Tensor order, Tensor groups, Tensor valid, double threshold) {
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(2) == 4, "boxes: expected [N, K, 4]");
  for (const Tensor& t : {order, groups, valid}) {
    STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == boxes.size(0) && t.size(1) == boxes.size(1) && t.is_contiguous(),
                    "order, groups and valid: expected contiguous [N, K]");
  }
  STD_TORCH_CHECK(boxes.is_contiguous(), "boxes: expected contiguous");
  Tensor keep = torch::stable::empty_like(valid);
  if (boxes.scalar_type() == ScalarType::Double) suppress_images<double>(boxes, order, groups, valid, threshold, keep);
  else suppress_images<float>(boxes, order, groups, valid, threshold, keep);
  return keep;
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) {
  m.impl("nms", TORCH_BOX(&nms));
}

}  // namespace
}  // namespace maskrcnn_ops

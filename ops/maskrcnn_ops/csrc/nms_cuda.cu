// Greedy non-maximum suppression on CUDA: a block per image walks its boxes in falling order of score, its threads
// test the boxes that follow. Nothing waits for the host.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "nms.h"

namespace maskrcnn_ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kThreads = 1024;

template <typename G>
__global__ void suppress_kernel(
    const G* boxes, const int64_t* order, const int64_t* groups, const bool* valid, int64_t count, double threshold,
    bool* keep) {
  const int64_t image = static_cast<int64_t>(blockIdx.x) * count;
  boxes += 4 * image;
  order += image;
  groups += image;
  valid += image;
  keep += image;
  for (int64_t k = threadIdx.x; k < count; k += kThreads) keep[k] = valid[k];
  __syncthreads();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t a = order[i];
    if (keep[a]) {  // the same for all threads: what precedes a in the order is settled
      for (int64_t j = i + 1 + threadIdx.x; j < count; j += kThreads) {
        const int64_t b = order[j];
        if (keep[b] && groups[a] == groups[b] && overlaps(boxes + 4 * a, boxes + 4 * b, threshold)) keep[b] = false;
      }
    }
    __syncthreads();
  }
}

template <typename G>
void launch(const Tensor& boxes, const Tensor& order, const Tensor& groups, const Tensor& valid, double threshold, Tensor& keep) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(boxes.get_device_index(), &stream));
  suppress_kernel<G><<<static_cast<int>(boxes.size(0)), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      boxes.const_data_ptr<G>(), order.const_data_ptr<int64_t>(), groups.const_data_ptr<int64_t>(),
      valid.const_data_ptr<bool>(), boxes.size(1), threshold, keep.mutable_data_ptr<bool>());
}

Tensor nms(Tensor boxes, Tensor order, Tensor groups, Tensor valid, double threshold) {
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(2) == 4, "boxes: expected [N, K, 4]");
  for (const Tensor& t : {order, groups, valid}) {
    STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == boxes.size(0) && t.size(1) == boxes.size(1) && t.is_contiguous(),
                    "order, groups and valid: expected contiguous [N, K]");
  }
  STD_TORCH_CHECK(boxes.is_contiguous(), "boxes: expected contiguous");
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  Tensor keep = torch::stable::empty_like(valid);
  if (keep.numel() == 0) return keep;
  if (boxes.scalar_type() == ScalarType::Double) launch<double>(boxes, order, groups, valid, threshold, keep);
  else launch<float>(boxes, order, groups, valid, threshold, keep);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return keep;
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) {
  m.impl("nms", TORCH_BOX(&nms));
}

}  // namespace
}  // namespace maskrcnn_ops

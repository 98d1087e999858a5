// Streams, launches and shared memory for the CUDA sources. With MASKRCNN_CUDA_ON_CPU, a test emulates them on the CPU
// (tests/ops/cuda_on_cpu.h).
#pragma once

#include <cstddef>

#include "family.h"

#ifdef MASKRCNN_CUDA_ON_CPU
#include "cuda_on_cpu.h"
#else
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#define MASKRCNN_DEVICE CUDA

// For short loops over an array of sums: the array stays in registers only if all indices are constants.
#define MASKRCNN_UNROLL _Pragma("unroll")

// The dynamic shared memory of a block as an array.
#define MASKRCNN_SHARED(type, name)                                  \
  extern __shared__ __align__(16) unsigned char maskrcnn_shared[];   \
  type* name = reinterpret_cast<type*>(maskrcnn_shared)

#define MASKRCNN_LAUNCH(kernel, blocks, threads, bytes, stream, ...) \
  do {                                                               \
    kernel<<<blocks, threads, bytes, stream>>>(__VA_ARGS__);         \
    STD_CUDA_KERNEL_LAUNCH_CHECK();                                  \
  } while (false)

namespace maskrcnn_ops {

using torch::stable::accelerator::DeviceGuard;

inline cudaStream_t stream_of(const torch::stable::Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

}  // namespace maskrcnn_ops
#endif

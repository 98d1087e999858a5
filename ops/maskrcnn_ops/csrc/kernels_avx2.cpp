// The inner loops for AVX2.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

// The headers stay outside: their inline functions must not be compiled for more than the baseline.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define MASKRCNN_BYTES 32
#define MASKRCNN_FMA true

namespace maskrcnn_ops::avx2 {
namespace {
using torch::headeronly::BFloat16;
using torch::headeronly::Half;
#include "lanes.inl"

#include "kernels.inl"
}  // namespace

const Kernels<float, float>& float_table() { return table<float, float>(); }
const Kernels<double, double>& double_table() { return table<double, double>(); }
const Kernels<BFloat16, float>& bfloat16_table() { return table<BFloat16, float>(); }
const Kernels<Half, float>& half_table() { return table<Half, float>(); }
}  // namespace maskrcnn_ops::avx2

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // __x86_64__

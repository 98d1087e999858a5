// The inner loops for AVX-512.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

// Headers are included before: their inline functions must be compiled for the baseline.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
#endif
// GCC 12 warns about its own header: _mm512_undefined_ps() is undefined on purpose.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define MASKRCNN_BYTES 64
#define MASKRCNN_FMA true

namespace maskrcnn_ops::avx512 {
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
}  // namespace maskrcnn_ops::avx512

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // __x86_64__

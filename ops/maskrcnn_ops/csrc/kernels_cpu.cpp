// The inner loops for any processor, and the choice of the instruction set.
#include "kernels.h"

#include <cstdlib>
#include <string>

#define MASKRCNN_BYTES 16
#define MASKRCNN_FMA false

namespace maskrcnn_ops {
using torch::headeronly::BFloat16;
using torch::headeronly::Half;

namespace baseline {
namespace {
#include "lanes.inl"

#include "kernels.inl"
}  // namespace

const Kernels<float, float>& float_table() { return table<float, float>(); }
const Kernels<double, double>& double_table() { return table<double, double>(); }
const Kernels<BFloat16, float>& bfloat16_table() { return table<BFloat16, float>(); }
const Kernels<Half, float>& half_table() { return table<Half, float>(); }
}  // namespace baseline

#define MASKRCNN_DECLARE(isa)                         \
  namespace isa {                                     \
  const Kernels<float, float>& float_table();         \
  const Kernels<double, double>& double_table();      \
  const Kernels<BFloat16, float>& bfloat16_table();   \
  const Kernels<Half, float>& half_table();           \
  }
#if defined(__x86_64__)
MASKRCNN_DECLARE(avx2)
MASKRCNN_DECLARE(avx512)
#endif

namespace {

enum class Set { baseline, avx2, avx512 };

Set find_set() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  // For tests, MASKRCNN_OPS_ISA=baseline or avx2 limits the RoI kernels. It does not affect MASKRCNN_VECTORS.
  const char* wish = std::getenv("MASKRCNN_OPS_ISA");
  const std::string limit = wish ? wish : "";
  if (limit == "baseline") return Set::baseline;
  if (avx512 && limit != "avx2") return Set::avx512;
  if (avx2) return Set::avx2;
#endif
  return Set::baseline;
}

Set chosen() {
  static const Set set = find_set();
  return set;
}

}  // namespace

// Name of the instruction set in use, for kernels.py.
extern "C" __attribute__((visibility("default"))) const char* maskrcnn_ops_instruction_set() {
  return chosen() == Set::avx512 ? "AVX-512" : chosen() == Set::avx2 ? "AVX2" : "baseline";
}

#if defined(__x86_64__)
#define MASKRCNN_CHOOSE(type, sum, name)                            \
  template <>                                                       \
  const Kernels<type, sum>& kernels() {                             \
    if (chosen() == Set::avx512) return avx512::name();             \
    return chosen() == Set::avx2 ? avx2::name() : baseline::name(); \
  }
#else
#define MASKRCNN_CHOOSE(type, sum, name) \
  template <>                            \
  const Kernels<type, sum>& kernels() { return baseline::name(); }
#endif

MASKRCNN_CHOOSE(float, float, float_table)
MASKRCNN_CHOOSE(double, double, double_table)
MASKRCNN_CHOOSE(BFloat16, float, bfloat16_table)
MASKRCNN_CHOOSE(Half, float, half_table)

}  // namespace maskrcnn_ops

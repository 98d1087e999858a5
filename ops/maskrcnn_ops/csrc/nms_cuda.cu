// Greedy non-maximum suppression on CUDA, with one block for each image. Each round decides which of the next boxes, in
// decreasing order of score, are kept. Then all threads compare the later boxes with them. Nothing synchronises with the
// host.
#include <torch/csrc/stable/library.h>

#include "cuda_runtime.cuh"
#include "nms.h"

namespace maskrcnn_ops {
namespace {

constexpr int kNmsThreads = 1024;
constexpr int kRound = 64;  // boxes decided in one round, one bit each

// One bit for each box of a round; two warps vote on them.
struct Bits {
  unsigned half[kRound / 32];

  __device__ unsigned long long all() const { return half[0] | static_cast<unsigned long long>(half[1]) << 32; }
};

// The boxes of a round, in shared memory.
template <typename G>
struct Round {
  G box[4 * kRound];
  int64_t group[kRound];
  Bits suppresses[kRound];  // later boxes of the same round
  Bits left;                // not suppressed by earlier rounds
  unsigned long long stay;
};

template <typename G>
__device__ inline void load_round(
    const G* boxes, const int64_t* order, const int64_t* groups, const bool* keep, int size, Round<G>& round) {
  bool left = false;
  if (static_cast<int>(threadIdx.x) < size) {
    const int64_t a = order[threadIdx.x];
    for (int side = 0; side < 4; ++side) round.box[4 * threadIdx.x + side] = boxes[4 * a + side];
    round.group[threadIdx.x] = groups[a];
    left = keep[a];
  }
  const unsigned votes = __ballot_sync(0xffffffffu, left);
  if (threadIdx.x < kRound && threadIdx.x % 32 == 0) round.left.half[threadIdx.x / 32] = votes;
  __syncthreads();
}

// Stores in `round.stay` which boxes of the round are kept.
template <typename G>
__device__ inline void settle_round(int size, double threshold, Round<G>& round) {
  for (int pair = threadIdx.x; pair < kRound * kRound; pair += kNmsThreads) {  // the same number of iterations in every thread
    const int i = pair / kRound;
    const int j = pair % kRound;
    const bool hit = i < j && j < size && round.group[i] == round.group[j] &&
                     overlaps(round.box + 4 * i, round.box + 4 * j, threshold);
    const unsigned votes = __ballot_sync(0xffffffffu, hit);
    if (j % 32 == 0) round.suppresses[i].half[j / 32] = votes;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned long long stay = round.left.all();
    for (int i = 0; i < size; ++i)
      if (stay >> i & 1) stay &= ~round.suppresses[i].all();
    round.stay = stay;
  }
  __syncthreads();
}

template <typename G>
__device__ inline bool is_suppressed(const G* box, int64_t group, double threshold, const Round<G>& round) {
  for (unsigned long long left = round.stay; left; left &= left - 1) {
    const int i = __ffsll(left) - 1;
    if (round.group[i] == group && overlaps(round.box + 4 * i, box, threshold)) return true;
  }
  return false;
}

template <typename G>
__global__ void __launch_bounds__(kNmsThreads, 1) suppress_kernel(
    const G* boxes, const int64_t* order, const int64_t* groups, const bool* valid, int64_t count, double threshold,
    bool* keep) {
  __shared__ Round<G> round;
  const int64_t image = static_cast<int64_t>(blockIdx.x) * count;
  boxes += 4 * image;
  order += image;
  groups += image;
  keep += image;
  for (int64_t k = threadIdx.x; k < count; k += kNmsThreads) keep[k] = valid[image + k];
  __syncthreads();
  for (int64_t begin = 0; begin < count; begin += kRound) {
    const int size = count - begin < kRound ? static_cast<int>(count - begin) : kRound;
    load_round(boxes, order + begin, groups, keep, size, round);
    if (round.left.all() == 0) {  // all boxes of the round are suppressed already
      __syncthreads();
      continue;
    }
    settle_round(size, threshold, round);
    if (static_cast<int>(threadIdx.x) < size) keep[order[begin + threadIdx.x]] = round.stay >> threadIdx.x & 1;
    for (int64_t j = begin + size + threadIdx.x; j < count; j += kNmsThreads) {
      const int64_t b = order[j];
      if (keep[b] && is_suppressed(boxes + 4 * b, groups[b], threshold, round)) keep[b] = false;
    }
    __syncthreads();
  }
}

template <typename G>
void launch(const Tensor& boxes, const Tensor& order, const Tensor& groups, const Tensor& valid, double threshold, Tensor& keep) {
  MASKRCNN_LAUNCH((suppress_kernel<G>), dim3(static_cast<unsigned>(boxes.size(0))), kNmsThreads, 0, stream_of(boxes),
                  boxes.const_data_ptr<G>(), order.const_data_ptr<int64_t>(), groups.const_data_ptr<int64_t>(),
                  valid.const_data_ptr<bool>(), boxes.size(1), threshold, keep.mutable_data_ptr<bool>());
}

Tensor nms(Tensor boxes, Tensor order, Tensor groups, Tensor valid, double threshold) {
  check_suppression(boxes, order, groups, valid);
  const DeviceGuard guard(boxes.get_device_index());
  Tensor keep = torch::stable::empty_like(valid);
  if (keep.numel() == 0) return keep;
  if (boxes.scalar_type() == ScalarType::Double) launch<double>(boxes, order, groups, valid, threshold, keep);
  else launch<float>(boxes, order, groups, valid, threshold, keep);
  return keep;
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, MASKRCNN_DEVICE, m) {
  m.impl("nms", TORCH_BOX(&nms));
}

}  // namespace
}  // namespace maskrcnn_ops

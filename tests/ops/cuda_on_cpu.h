// Plays CUDA on the CPU, for the kernels of maskrcnn_ops: one block after another, each thread of a block a fiber that
// runs until it meets a barrier. In which order the threads of a block run is MASKRCNN_CUDA_ORDER (forward, backward,
// shuffled): a result that depends on it lacks a barrier. Shared memory holds NaNs when a block begins.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define MASKRCNN_DEVICE CPU
#define MASKRCNN_UNROLL
#define MASKRCNN_SHARED(type, name) type* name = reinterpret_cast<type*>(cuda_on_cpu::shared())
#define MASKRCNN_LAUNCH(kernel, blocks, threads, bytes, stream, ...) \
  cuda_on_cpu::run(blocks, threads, bytes, [&] { kernel(__VA_ARGS__); })

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline void __stwb(uint4* to, uint4 value) { *to = value; }

inline dim3 threadIdx, blockIdx, gridDim, blockDim;

namespace cuda_on_cpu {

constexpr size_t kStack = 64 * 1024;
constexpr size_t kShared = 48 * 1024;

inline unsigned char* shared() {
  alignas(16) static unsigned char memory[kShared];
  return memory;
}

struct Fiber {
  ucontext_t start;
  jmp_buf place;
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStack]};
  bool begun;
  bool done;
};

struct Machine {
  std::vector<Fiber> fibers;
  jmp_buf scheduler;
  const std::function<void()>* body;
  size_t current;
  std::vector<unsigned> votes;
};

inline Machine& machine() {
  static Machine m;
  return m;
}

inline void enter() {
  Machine& m = machine();
  (*m.body)();
  m.fibers[m.current].done = true;
  _longjmp(m.scheduler, 1);
}

// Goes on with a fiber until it waits or ends. Jumps instead of swapcontext, which asks the system each time.
inline void resume(size_t thread) {
  Machine& m = machine();
  Fiber& fiber = m.fibers[thread];
  m.current = thread;
  threadIdx = dim3(static_cast<unsigned>(thread));
  if (_setjmp(m.scheduler) != 0) return;
  if (fiber.begun) _longjmp(fiber.place, 1);
  fiber.begun = true;
  setcontext(&fiber.start);
}

inline std::vector<size_t> order_of(size_t threads) {
  static std::mt19937 dice(1);
  const char* wish = std::getenv("MASKRCNN_CUDA_ORDER");
  const std::string name = wish ? wish : "forward";
  std::vector<size_t> order(threads);
  std::iota(order.begin(), order.end(), size_t{0});
  if (name == "backward") std::reverse(order.begin(), order.end());
  if (name == "shuffled") std::shuffle(order.begin(), order.end(), dice);
  return order;
}

inline void run_block(size_t threads) {
  Machine& m = machine();
  for (size_t t = 0; t < threads; ++t) {
    Fiber& fiber = m.fibers[t];
    fiber.begun = fiber.done = false;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStack;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
  }
  std::memset(shared(), 0xff, kShared);
  for (size_t left = threads; left > 0;) {
    size_t ended = 0;
    for (const size_t t : order_of(threads)) {
      resume(t);
      ended += m.fibers[t].done;
    }
    if (ended != 0 && ended != left) throw std::runtime_error("a barrier that not all threads of a block meet");
    left -= ended;
  }
}

inline void run(dim3 blocks, int threads, size_t bytes, const std::function<void()>& body) {
  if (bytes > kShared) throw std::runtime_error("more shared memory than a block has");
  if (blocks.x == 0 || blocks.y == 0) throw std::runtime_error("a launch without blocks");
  Machine& m = machine();
  if (m.fibers.size() < static_cast<size_t>(threads)) m.fibers = std::vector<Fiber>(static_cast<size_t>(threads));
  m.votes.assign(static_cast<size_t>(threads), 0);
  m.body = &body;
  gridDim = blocks;
  blockDim = dim3(static_cast<unsigned>(threads));
  for (unsigned y = 0; y < blocks.y; ++y) {
    for (unsigned x = 0; x < blocks.x; ++x) {
      blockIdx = dim3(x, y);
      run_block(static_cast<size_t>(threads));
    }
  }
}

// Lets the other threads of the block come to the same place.
inline void wait() {
  Machine& m = machine();
  if (_setjmp(m.fibers[threadIdx.x].place) == 0) _longjmp(m.scheduler, 1);
}

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::wait(); }

inline int __syncthreads_and(int vote) {
  std::vector<unsigned>& votes = cuda_on_cpu::machine().votes;
  votes[threadIdx.x] = vote != 0;
  cuda_on_cpu::wait();
  const bool all = std::all_of(votes.begin(), votes.end(), [](unsigned v) { return v != 0; });
  cuda_on_cpu::wait();
  return all;
}

// As here, all threads of a block take part, not those of one warp alone.
inline unsigned __ballot_sync(unsigned, int vote) {
  std::vector<unsigned>& votes = cuda_on_cpu::machine().votes;
  votes[threadIdx.x] = vote != 0;
  cuda_on_cpu::wait();
  unsigned mask = 0;
  for (unsigned lane = 0; lane < 32; ++lane) mask |= votes[threadIdx.x / 32 * 32 + lane] << lane;
  cuda_on_cpu::wait();
  return mask;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffsll(unsigned long long x) { return __builtin_ffsll(static_cast<long long>(x)); }

template <typename T>
T atomicAdd(T* at, T value) { return std::exchange(*at, *at + value); }
inline int atomicMin(int* at, int value) { return std::exchange(*at, std::min(*at, value)); }
inline int atomicMax(int* at, int value) { return std::exchange(*at, std::max(*at, value)); }
inline unsigned atomicOr(unsigned* at, unsigned value) { return std::exchange(*at, *at | value); }

namespace maskrcnn_ops {

struct DeviceGuard {
  explicit DeviceGuard(int) {}
};

inline int stream_of(const torch::stable::Tensor&) { return 0; }

}  // namespace maskrcnn_ops

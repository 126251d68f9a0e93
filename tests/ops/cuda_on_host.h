// SPDX-License-Identifier: Apache-2.0
// What the project's CUDA sources take from cuda_runtime.h, for the CPU. See cuda_on_host.py.
//
// The threads of a block are fibers of one ordinary thread. Each runs until it waits for others, so that whatever is read
// before the barrier that its writer stands behind has its old value, and order_of_threads(true) turns the order round: a
// missing barrier changes the result in one of the two orders.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct Index {
  unsigned x;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace on_host {

// Threads that wait for one another: a block, or a warp of it.
struct Group {
  unsigned size = 0, arrived = 0, passed = 0;  // passed: how often all have arrived
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Group* waits_for = nullptr;
  unsigned passed = 0;
  bool done = false;
};

constexpr size_t kStack = size_t{1} << 17;

inline unsigned warp_size = 4;
inline bool descending = false;
inline ucontext_t scheduler;
inline std::vector<Fiber> fibers;
inline Group block;
inline std::vector<Group> warps;
inline std::vector<uint64_t> exchanged;  // a slot for each thread
inline std::vector<uint64_t> dynamic_shared;
inline const std::function<void()>* body;

inline void wait_for(Group& group) {
  Fiber& me = fibers[threadIdx.x];
  if (++group.arrived == group.size) {
    group.arrived = 0;
    ++group.passed;
    return;
  }
  me.waits_for = &group;
  me.passed = group.passed;
  swapcontext(&me.context, &scheduler);
}

inline Group& warp() { return warps[threadIdx.x / warp_size]; }

inline void run_fiber() {
  for (unsigned b = 0; b < gridDim.x; ++b) {
    blockIdx.x = b;
    (*body)();
    wait_for(block);
  }
  fibers[threadIdx.x].done = true;
}

// All lanes of a warp give theirs and take that of another one; from a lane beyond the warp: their own.
template <typename T>
T shuffled(T mine, unsigned from) {
  const unsigned me = threadIdx.x, first = me / warp_size * warp_size;
  std::memcpy(&exchanged[me], &mine, sizeof(T));
  wait_for(warp());
  T result;
  std::memcpy(&result, &exchanged[from < warp_size ? first + from : me], sizeof(T));
  wait_for(warp());
  return result;
}

inline void run_grid(unsigned blocks, unsigned threads, size_t shared, const std::function<void()>& kernel) {
  body = &kernel;
  blockDim.x = threads;
  gridDim.x = blocks;
  block = Group{threads};
  warps.assign((threads + warp_size - 1) / warp_size, Group{warp_size});
  exchanged.assign(threads, 0);
  constexpr uint64_t sentinel = 0x5ca1ab1edeadbeef;
  dynamic_shared.assign(shared / 8 + 2, sentinel);  // full of nonsense, as on a GPU
  fibers.resize(threads);
  for (Fiber& fiber : fibers) {
    if (!fiber.stack) fiber.stack.reset(new char[kStack]);
    fiber.done = false;
    fiber.waits_for = nullptr;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, run_fiber, 0);
  }
  for (bool working = true; working;) {
    working = false;
    bool moved = false;
    for (unsigned k = 0; k < threads; ++k) {
      const unsigned t = descending ? threads - 1 - k : k;
      Fiber& fiber = fibers[t];
      if (fiber.done) continue;
      working = true;
      if (fiber.waits_for != nullptr && fiber.waits_for->passed == fiber.passed) continue;
      fiber.waits_for = nullptr;
      moved = true;
      threadIdx.x = t;
      swapcontext(&scheduler, &fiber.context);
    }
    if (working && !moved) {
      std::fprintf(stderr, "some threads wait at a barrier or shuffle that the others never reach\n");
      std::abort();
    }
  }
  if (dynamic_shared.back() != sentinel) {
    std::fprintf(stderr, "a kernel wrote behind its %zu bytes of shared memory\n", shared);
    std::abort();
  }
}

}  // namespace on_host

extern "C" inline __attribute__((used)) void order_of_threads(bool descending) { on_host::descending = descending; }
extern "C" inline __attribute__((used)) void lanes_of_a_warp(unsigned lanes) { on_host::warp_size = lanes; }

inline void __syncthreads() { on_host::wait_for(on_host::block); }
inline void __syncwarp() { on_host::wait_for(on_host::warp()); }
template <typename T>
T __shfl_sync(unsigned, T mine, unsigned lane) {
  return on_host::shuffled(mine, lane);
}
template <typename T>
T __shfl_up_sync(unsigned, T mine, unsigned by) {
  return on_host::shuffled(mine, threadIdx.x % on_host::warp_size - by);
}
template <typename T>
T __shfl_down_sync(unsigned, T mine, unsigned by) {
  return on_host::shuffled(mine, threadIdx.x % on_host::warp_size + by);
}
template <typename T>
T __shfl_xor_sync(unsigned, T mine, unsigned by) {
  return on_host::shuffled(mine, (threadIdx.x % on_host::warp_size) ^ by);
}
inline unsigned __ballot_sync(unsigned, bool mine) {
  unsigned all = 0;
  for (unsigned lane = 0; lane < on_host::warp_size; ++lane) all |= unsigned{__shfl_sync(0u, mine, lane)} << lane;
  return all;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

// What the matrix units do: c [16, 8] += a [16, depth] b [depth, 8], of which the lanes of a warp hold the elements that the PTX
// ISA says. element(i, j, ...) finds one among what the lanes gave. Sums are formed in double.
namespace on_host {

struct Fragments {
  uint32_t a[4], b[2];
};
inline Fragments given[1024];

inline float as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

template <typename ElementA, typename ElementB>
void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int depth, const ElementA& of_a,
              const ElementB& of_b) {
  const Fragments* lanes = given + threadIdx.x / 32 * 32;
  std::memcpy(given[threadIdx.x].a, a, sizeof(a));
  std::memcpy(given[threadIdx.x].b, b, sizeof(b));
  wait_for(warp());
  const int group = threadIdx.x % 32 / 4, part = threadIdx.x % 4;
  for (int r = 0; r < 4; ++r) {
    double sum = c[r];
    for (int k = 0; k < depth; ++k) sum += double{of_a(lanes, group + r / 2 * 8, k)} * of_b(lanes, k, 2 * part + r % 2);
    c[r] = static_cast<float>(sum);
  }
  wait_for(warp());
}

}  // namespace on_host

inline void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  using on_host::Fragments;
  const auto half = [](uint32_t pair, int k) { return on_host::as_float(k % 2 == 0 ? pair << 16 : pair & 0xffff0000u); };
  on_host::multiply(
      c, a, b, 16,
      [&](const Fragments* lanes, int i, int k) { return half(lanes[i % 8 * 4 + k % 8 / 2].a[i / 8 + k / 8 * 2], k); },
      [&](const Fragments* lanes, int k, int j) { return half(lanes[j * 4 + k % 8 / 2].b[k / 8], k); });
}

inline void multiply_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  using on_host::Fragments;
  const auto upper = [](uint32_t bits) { return on_host::as_float(bits & ~0x1fffu); };  // the units do not read the rest
  on_host::multiply(
      c, a, b, 8,
      [&](const Fragments* lanes, int i, int k) { return upper(lanes[i % 8 * 4 + k % 4].a[i / 8 + k / 4 * 2]); },
      [&](const Fragments* lanes, int k, int j) { return upper(lanes[j * 4 + k % 4].b[k / 4]); });
}

// Fibers give way only where they wait: no other thread comes between these reads and writes.
using Word = unsigned long long;
inline Word atomicAdd(Word* to, Word by) {
  const Word before = *to;
  *to += by;
  return before;
}
inline Word atomicMax(Word* to, Word value) {
  const Word before = *to;
  if (value > before) *to = value;
  return before;
}

using cudaStream_t = void*;
using cudaError_t = int;
enum { cudaSuccess = 0, cudaFuncAttributeMaxDynamicSharedMemorySize };
inline int cudaGetLastError() { return 0; }
inline int cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return 0;
}
template <typename Kernel>
int cudaFuncSetAttribute(Kernel, int, int) {
  return 0;
}

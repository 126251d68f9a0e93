// SPDX-License-Identifier: Apache-2.0
// Launch helpers; for .cu files only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace medrecon::cuda {

constexpr int kThreads = 256;

inline unsigned blocks_for(int64_t count) {
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  constexpr int64_t most = 1 << 20;  // the rest is walked by the grid-stride loop
  return static_cast<unsigned>(blocks < 1 ? 1 : (blocks > most ? most : blocks));
}

#define MR_GRID_STRIDE(index, count)                                                                             \
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; index < (count);             \
       index += static_cast<int64_t>(gridDim.x) * blockDim.x)

// Calls kernel<<<...>>>(count, arguments...) over count indices on the stream; an empty loop launches nothing.
template <typename Kernel, typename... Arguments>
int launch(void* stream, Kernel kernel, int64_t count, Arguments... arguments) {
  if (count <= 0) return 0;
  kernel<<<blocks_for(count), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(count, arguments...);
  return static_cast<int>(cudaGetLastError());
}

// Calls the kernel for `count` pieces of work with a block of kThreads each; the kernel walks over what is beyond the grid.
template <typename Kernel, typename... Arguments>
int launch_blocks(void* stream, Kernel kernel, int64_t count, Arguments... arguments) {
  if (count <= 0) return 0;
  kernel<<<blocks_for(count * kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(count, arguments...);
  return static_cast<int>(cudaGetLastError());
}

// Zeros.
template <typename T>
int clear(void* stream, T* values, int64_t count) {
  return static_cast<int>(
      cudaMemsetAsync(values, 0, static_cast<size_t>(count) * sizeof(T), static_cast<cudaStream_t>(stream)));
}

}  // namespace medrecon::cuda

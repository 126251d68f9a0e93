// SPDX-License-Identifier: Apache-2.0
// Raw-pointer entry point of the CUDA kernel, for float and double; arrays as in cpu/resample.h, on the stream's device.
// Returns a cudaError_t (0: launched).
#pragma once

#include <cstdint>

namespace medrecon::cuda {

template <typename T>
int resample(void* stream, int64_t rays, int64_t bins, int64_t n, bool shared, T padding, const T* t, const T* weights,
             const T* u, T* out);

}  // namespace medrecon::cuda

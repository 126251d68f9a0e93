// SPDX-License-Identifier: Apache-2.0
// Raw-pointer launchers of the CUDA kernels, for float and double; the arrays are those of cpu/sinkhorn.h, on the device.
// stream is a cudaStream_t. Each returns a cudaError_t as int (0: launched). Nothing synchronises with the host.
#pragma once

#include <cstdint>

namespace medrecon::cuda {

// work [batch * (m + n + 2)]
template <typename T>
int log_sinkhorn(void* stream, int64_t batch, int64_t m, int64_t n, int64_t iterations, const T* scores, const T* bin,
                 T* plan, T* work);

// work [batch * ((m + n + 2) * 2 * iterations + n + 2)]
template <typename T>
int log_sinkhorn_backward(void* stream, int64_t batch, int64_t m, int64_t n, int64_t iterations, const T* grad,
                          const T* scores, const T* bin, T* grad_scores, T* grad_bin, T* work);

}  // namespace medrecon::cuda

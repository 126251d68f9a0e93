// SPDX-License-Identifier: Apache-2.0
// Raw-pointer entry points of the CPU kernels, for float and double. All arrays are dense and row-major.
#pragma once

#include <cstdint>

namespace medrecon::cpu {

// scores [batch, m, n] with m, n >= 1, bin [1] -> plan [batch, m + 1, n + 1]; see core/sinkhorn.h;
// work: for the CUDA kernels, here unused
template <typename T>
void log_sinkhorn(int64_t batch, int64_t m, int64_t n, int64_t iterations, const T* scores, const T* bin, T* plan, T* work);

// grad [batch, m + 1, n + 1] -> grad_scores [batch, m, n], grad_bin [1], through the iterations as they were made
template <typename T>
void log_sinkhorn_backward(int64_t batch, int64_t m, int64_t n, int64_t iterations, const T* grad, const T* scores,
                           const T* bin, T* grad_scores, T* grad_bin, T* work);

}  // namespace medrecon::cpu

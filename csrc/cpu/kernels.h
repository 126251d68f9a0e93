// SPDX-License-Identifier: Apache-2.0
// Raw-pointer entry points of the CPU kernels, for float and double. All arrays are dense and row-major.
#pragma once

#include <cstdint>

namespace medrecon::cpu {

// t [rays, intervals + 1], origins and directions [rays, 3], radii [rays] -> mean, var [rays, intervals, 3]
template <typename T>
void cast_rays(int64_t rays, int64_t intervals, const T* t, const T* origins, const T* directions, const T* radii, T* mean,
               T* var);

// grad_mean, grad_var [rays, intervals, 3] -> grad_t [rays, intervals + 1], grad_origins, grad_directions [rays, 3],
// grad_radii [rays]; every output element is written
template <typename T>
void cast_rays_backward(int64_t rays, int64_t intervals, const T* grad_mean, const T* grad_var, const T* t,
                        const T* directions, const T* radii, T* grad_t, T* grad_origins, T* grad_directions,
                        T* grad_radii);

// x [points, dims] -> out [points, 2 * dims * degrees]; frequencies 2^min_deg ... 2^(min_deg + degrees - 1)
template <typename T>
void positional_encoding(int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* x, T* out);

template <typename T>
void positional_encoding_backward(int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* grad, const T* x,
                                  T* grad_x);

// mean, var [points, dims] -> out [points, 2 * dims * degrees]
template <typename T>
void integrated_positional_encoding(int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* mean,
                                    const T* var, T* out);

template <typename T>
void integrated_positional_encoding_backward(int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* grad,
                                             const T* mean, const T* var, T* grad_mean, T* grad_var);

// scores [batch, m, n] with m, n >= 1, bin [1] -> plan [batch, m + 1, n + 1]; see core/sinkhorn.h;
// work: for the CUDA kernels, here unused
template <typename T>
void log_sinkhorn(int64_t batch, int64_t m, int64_t n, int64_t iterations, const T* scores, const T* bin, T* plan, T* work);

// grad [batch, m + 1, n + 1] -> grad_scores [batch, m, n], grad_bin [1], through the iterations as they were made
template <typename T>
void log_sinkhorn_backward(int64_t batch, int64_t m, int64_t n, int64_t iterations, const T* grad, const T* scores,
                           const T* bin, T* grad_scores, T* grad_bin, T* work);

// "baseline", "avx2" or "avx512": the instruction set that log_sinkhorn uses on this processor.
const char* simd();

// "openmp" or "serial": what the loops were compiled with.
const char* threading();

}  // namespace medrecon::cpu

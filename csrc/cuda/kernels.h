// SPDX-License-Identifier: Apache-2.0
// Raw-pointer launchers of the CUDA kernels, for float and double; the arrays are those of cpu/kernels.h, on the device.
// stream is a cudaStream_t. Each returns a cudaError_t as int (0: launched). Nothing synchronises with the host.
#pragma once

#include <cstdint>

namespace medrecon::cuda {

template <typename T>
int cast_rays(void* stream, int64_t rays, int64_t intervals, const T* t, const T* origins, const T* directions,
              const T* radii, T* mean, T* var);

template <typename T>
int cast_rays_backward(void* stream, int64_t rays, int64_t intervals, const T* grad_mean, const T* grad_var, const T* t,
                       const T* directions, const T* radii, T* grad_t, T* grad_origins, T* grad_directions, T* grad_radii);

template <typename T>
int positional_encoding(void* stream, int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* x, T* out);

template <typename T>
int positional_encoding_backward(void* stream, int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* grad,
                                 const T* x, T* grad_x);

template <typename T>
int integrated_positional_encoding(void* stream, int64_t points, int64_t dims, int64_t min_deg, int64_t degrees,
                                   const T* mean, const T* var, T* out);

template <typename T>
int integrated_positional_encoding_backward(void* stream, int64_t points, int64_t dims, int64_t min_deg, int64_t degrees,
                                            const T* grad, const T* mean, const T* var, T* grad_mean, T* grad_var);

// work [batch * (m + n + 2)]
template <typename T>
int log_sinkhorn(void* stream, int64_t batch, int64_t m, int64_t n, int64_t iterations, const T* scores, const T* bin,
                 T* plan, T* work);

// work [batch * ((m + n + 2) * 2 * iterations + n + 2)]
template <typename T>
int log_sinkhorn_backward(void* stream, int64_t batch, int64_t m, int64_t n, int64_t iterations, const T* grad,
                          const T* scores, const T* bin, T* grad_scores, T* grad_bin, T* work);

// Text of an error code returned above.
const char* error_text(int code);

}  // namespace medrecon::cuda

// SPDX-License-Identifier: Apache-2.0
// Raw-pointer launchers of the CUDA kernels, for float and double; the arrays are those of cpu/encoding.h, on the device.
// stream is a cudaStream_t. Each returns a cudaError_t as int (0: launched). Nothing synchronises with the host.
#pragma once

#include <cstdint>

namespace medrecon::cuda {

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

}  // namespace medrecon::cuda

// SPDX-License-Identifier: Apache-2.0
// Raw-pointer entry points of the CPU kernels, for float and double. All arrays are dense and row-major.
#pragma once

#include <cstdint>

namespace medrecon::cpu {

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

}  // namespace medrecon::cpu

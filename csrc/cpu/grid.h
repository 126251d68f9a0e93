// SPDX-License-Identifier: Apache-2.0
// Raw-pointer entry points of the hash grid's CPU kernels, for float and double. All arrays are dense and row-major.
#pragma once

#include <cstdint>

namespace medrecon::cpu {

// x [samples, 3], sigma [samples] or null, table [entries, features] -> out [samples, levels * features]
template <typename T>
void grid_encode(int64_t samples, int64_t levels, const int64_t* resolutions, int64_t log2_size, int64_t features, const T* x,
                 const T* sigma, const T* table, T* out);

// grad [samples, levels * features] -> grad_table [entries, features]. Each level is summed by one thread in the order of the
// samples: the result does not depend on the number of threads.
template <typename T>
void grid_encode_backward_table(int64_t samples, int64_t levels, const int64_t* resolutions, int64_t log2_size,
                                int64_t features, const T* grad, const T* x, const T* sigma, T* grad_table);

// grad -> grad_x [samples, 3] and, where there is a sigma, grad_sigma [samples]
template <typename T>
void grid_encode_backward_inputs(int64_t samples, int64_t levels, const int64_t* resolutions, int64_t log2_size,
                                 int64_t features, const T* grad, const T* x, const T* sigma, const T* table, T* grad_x,
                                 T* grad_sigma);

}  // namespace medrecon::cpu

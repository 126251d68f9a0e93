// SPDX-License-Identifier: Apache-2.0
// Raw-pointer launchers of the CUDA kernels, for float and double; the arrays are those of cpu/grid.h, on the device, except
// `resolutions`, which the host reads. stream is a cudaStream_t. Each returns a cudaError_t as int (0: launched).
#pragma once

#include <cstdint>

namespace medrecon::cuda {

template <typename T>
int grid_encode(void* stream, int64_t samples, int64_t levels, const int64_t* resolutions, int64_t log2_size,
                int64_t features, const T* x, const T* sigma, const T* table, T* out);

// Work space: largest [levels]; sums [1 for float, 2 for double][entries * features].
template <typename T>
int grid_encode_backward_table(void* stream, int64_t samples, int64_t levels, const int64_t* resolutions, int64_t log2_size,
                               int64_t features, const T* grad, const T* x, const T* sigma, int64_t* largest, int64_t* sums,
                               T* grad_table);

template <typename T>
int grid_encode_backward_inputs(void* stream, int64_t samples, int64_t levels, const int64_t* resolutions, int64_t log2_size,
                                int64_t features, const T* grad, const T* x, const T* sigma, const T* table, T* grad_x,
                                T* grad_sigma);

}  // namespace medrecon::cuda

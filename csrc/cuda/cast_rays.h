// SPDX-License-Identifier: Apache-2.0
// Raw-pointer launchers of the CUDA kernels, for float and double; the arrays are those of cpu/cast_rays.h, on the device.
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

}  // namespace medrecon::cuda

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

}  // namespace medrecon::cpu

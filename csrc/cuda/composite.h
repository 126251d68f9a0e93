// SPDX-License-Identifier: Apache-2.0
// Raw-pointer entry points of the CUDA kernels, for float and double; arrays as in cpu/composite.h, on the stream's device.
// Each returns a cudaError_t (0: launched).
#pragma once

#include "../core/composite.h"

namespace medrecon::cuda {

template <typename T>
int composite(void* stream, const Rays<T>& rays, const Pixels<T*>& out);

template <typename T>
int composite_backward(void* stream, const Rays<T>& rays, const Pixels<const T*>& grad, const Pixels<const T*>& made,
                       const RayGradients<T>& out);

}  // namespace medrecon::cuda

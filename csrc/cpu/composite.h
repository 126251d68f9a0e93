// SPDX-License-Identifier: Apache-2.0
// Raw-pointer entry points of the CPU kernels, for float and double. All arrays are dense and row-major.
#pragma once

#include "../core/composite.h"

namespace medrecon::cpu {

// Every output of a ray and of its samples is written; samples of no ray are left alone.
template <typename T>
void composite(const Rays<T>& rays, const Pixels<T*>& out);

// made: what composite made of the rays (its rgb is not used).
template <typename T>
void composite_backward(const Rays<T>& rays, const Pixels<const T*>& grad, const Pixels<const T*>& made,
                        const RayGradients<T>& out);

}  // namespace medrecon::cpu

// SPDX-License-Identifier: Apache-2.0
// Raw-pointer entry point of the CPU kernel, for float and double. All arrays are dense and row-major.
#pragma once

#include <cstdint>

namespace medrecon::cpu {

// t [rays, bins + 1], weights [rays, bins], bins >= 1, u [rays, n] (or [n] where `shared`), in [0, 1) -> out [rays, n]
template <typename T>
void resample(int64_t rays, int64_t bins, int64_t n, bool shared, T padding, const T* t, const T* weights, const T* u,
              T* out);

}  // namespace medrecon::cpu

// SPDX-License-Identifier: Apache-2.0
// Marching many rays on a GPU, for float and double: first how many intervals each has, then, when the caller has summed those
// and made room, the intervals. Each returns a cudaError_t as int (0: launched). Nothing synchronises with the host.
#pragma once

#include <cstdint>

#include "../cpu/march.h"

namespace medrecon::cuda {

using cpu::MarchArguments;  // with pointers to the device

// coarse [(resolution / 4)^3], for resolutions that are multiples of 4.
int march_coarse(void* stream, const uint8_t* occupancy, int64_t resolution, uint8_t* coarse);

// counts [rays]; coarse may be null.
template <typename T>
int march_count(void* stream, const MarchArguments<T>& arguments, const uint8_t* coarse, int64_t* counts);

// offsets [rays + 1] -> ray, t0, t1 [offsets[rays]]
template <typename T>
int march_write(void* stream, const MarchArguments<T>& arguments, const uint8_t* coarse, const int64_t* offsets, int32_t* ray,
                T* t0, T* t1);

}  // namespace medrecon::cuda

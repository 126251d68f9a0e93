// SPDX-License-Identifier: Apache-2.0
// Marching many rays on the CPU, for float and double. All arrays are dense and row-major.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/march.h"

namespace medrecon::cpu {

// What a call marches; jitter [rays] or null, the other arrays as their names say.
template <typename T>
struct MarchArguments {
  int64_t rays;
  const T *origins, *directions, *near, *far, *jitter;  // [rays, 3], [rays, 3], [rays] ...
  const uint8_t* occupancy;
  int64_t resolution;
  T step, cone;
  int64_t max_samples;
  bool contract = false;  // the cube holds the contracted space (core/contract.h); cone is 0 then
};

// What lets rays leap far; nothing where the resolution is no multiple of kCoarse, or so few rays come that it would not pay,
// or rays are bent.
class OccupancyLevels {
 public:
  OccupancyLevels(const uint8_t* bits, int64_t resolution, int64_t rays, bool contracted);
  // It points into this object.
  Occupancy grid() const;

 private:
  const uint8_t* bits_;
  int64_t resolution_, box_[6];
  bool contracted_;
  std::vector<uint8_t> coarse_, coarser_;
};

// The intervals of all rays, kept until the caller, who now knows how many, has room for them.
template <typename T>
class Marched {
 public:
  // offsets [rays + 1]: first interval of each ray, then their number.
  Marched(const MarchArguments<T>& arguments, int64_t* offsets);
  // ray, t0, t1 [offsets[rays]]
  void write(const int64_t* offsets, int32_t* ray, T* t0, T* t1) const;

 private:
  int64_t rays_;
  std::vector<std::vector<T>> posts_;  // of each block of rays: t0, t1, t0, t1, ...
};

}  // namespace medrecon::cpu

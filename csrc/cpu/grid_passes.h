// SPDX-License-Identifier: Apache-2.0
// What grid_simd.cpp compiles for each instruction set: loops of one thread over samples [begin, end).
#pragma once

#include "../core/grid.h"

namespace medrecon::cpu {

template <typename T>
struct GridArrays {
  const GridLevels* levels;
  int64_t features;
  const T* x;      // [samples, 3]
  const T* sigma;  // [samples] or null
};

template <typename T>
struct GridPasses {
  // table -> out, all levels
  void (*forward)(const GridArrays<T>& arrays, int64_t begin, int64_t end, const T* table, T* out);
  // Adds to grad_table, one level.
  void (*backward)(const GridArrays<T>& arrays, int64_t begin, int64_t end, int64_t level, const T* grad, T* grad_table);
};

// Those of the best instruction set of this processor.
template <typename T>
const GridPasses<T>& grid_passes();

}  // namespace medrecon::cpu

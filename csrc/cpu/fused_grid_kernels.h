// SPDX-License-Identifier: Apache-2.0
// What fused_grid_simd.cpp compiles for each instruction set, and what it shares with the loop over threads.
#pragma once

#include <memory>
#include <vector>

#include "../core/grid.h"
#include "../core/march.h"
#include "field_plan.h"
#include "fused_grid.h"

namespace medrecon::cpu {

// The exponent of the density is cut off here.
constexpr double kLargestExponent = 15;

// Samples of some rays: where they are, and the gradients of their features, level after level. They wait here until all
// rays are done, because a level of the table is summed by one thread in the order of the samples.
template <typename T>
struct GridTrace {
  int64_t rows;
  std::unique_ptr<T[]> place;  // x, y, z and, where levels fade, sigma: each [rows]
  std::unique_ptr<T[]> grad;   // [levels, rows, features of a level]

  GridTrace(int64_t rows_, int64_t places, int64_t features)
      : rows(rows_), place(new T[static_cast<size_t>(rows * places)]), grad(new T[static_cast<size_t>(rows * features)]) {}
};

// One call's constants.
template <typename T>
struct FusedGridPlan {
  const FusedGridTask<T>* task;
  FieldPlan network;
  GridLevels levels;
  Occupancy occupancy;
  int64_t rays, space;  // most of a batch, and rows that there is memory for
  int64_t most;         // rows of a ray
  int64_t inputs;       // of the network, rounded up to whole vectors
};

template <typename T>
struct FusedGridKernels {
  int64_t lanes, block;
  int64_t (*scratch_size)(const FusedGridPlan<T>& plan);
  // Rays [begin, end), adding to `gradient` (in the network's packed layout, null where not wanted), to *loss and to traces.
  void (*run)(const FusedGridPlan<T>& plan, const T* network, int64_t begin, int64_t end, T* scratch, T* gradient,
              double* loss, std::vector<GridTrace<T>>* traces);
  // The gradient of one level's entries, which are overwritten.
  void (*scatter)(const FusedGridPlan<T>& plan, int64_t level, const std::vector<std::vector<GridTrace<T>>>& traces);
};

template <typename T>
const FusedGridKernels<T>& fused_grid_kernels();

}  // namespace medrecon::cpu

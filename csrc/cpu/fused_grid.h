// SPDX-License-Identifier: Apache-2.0
// Raw-pointer entry point of the fused grid field on the CPU, for float and double. All arrays are dense and row-major.
#pragma once

#include <cstdint>

#include "../core/field.h"
#include "march.h"

namespace medrecon::cpu {

// What to render, and what to do with it: only the outputs, or gradients as well.
template <typename T>
struct FusedGridTask {
  MarchArguments<T> march;
  T stop;
  int64_t levels, log2_size, features;  // features of one level
  const int64_t* resolutions;           // [levels]
  const T *table, *parameters, *ray_bias;
  const T* radii;       // [rays] or null
  const T* background;  // [rays, 3] or, with a stride of 0, [3]; null: black
  int64_t background_stride;

  T *rgb, *depth, *opacity;  // [rays, 3], [rays], [rays]; each null where not wanted
  int64_t* seen;             // [rays] or null

  // Gradients are wanted where grad_table is not null. They come from those of the outputs (grad_rgb not null) or from the
  // squared error to target, and are overwritten.
  const T *grad_rgb, *grad_depth, *grad_opacity;
  const T *target, *ray_weight;  // [rays, 3], [rays]
  T* loss;                       // [1]
  T *grad_table, *grad_parameters, *grad_ray_bias, *grad_background;  // the last [rays, 3], or null
};

// shape: with `features` inputs.
template <typename T>
void fused_grid(const FieldShape& shape, const FusedGridTask<T>& task);

}  // namespace medrecon::cpu

// SPDX-License-Identifier: Apache-2.0
// Raw-pointer entry point of the fused field on the CPU, for float and double. All arrays are dense and row-major.
#pragma once

#include <cstdint>

#include "../core/field.h"

namespace medrecon::cpu {

// What to render, and what to do with it: only the outputs, or gradients as well.
template <typename T>
struct FieldTask {
  int64_t rays, samples;
  const T *t, *origins, *directions, *radii;  // [rays, samples + 1], [rays, 3], [rays, 3], [rays]
  const T *parameters, *ray_bias;             // [shape.parameters()], [rays, colour_width]
  const T* background;                        // [rays, 3] or, with a stride of 0, [3]; null: black
  int64_t background_stride;
  const bool* mask;  // [rays, samples] or null

  T *rgb, *depth, *opacity, *weights;  // [rays, 3], [rays], [rays], [rays, samples]; each null where not wanted

  // Gradients are wanted where grad_parameters is not null. They come from those of the outputs (grad_rgb not null) or
  // from the squared error to target, and are overwritten.
  const T *grad_rgb, *grad_depth, *grad_opacity, *grad_weights;
  const T *target, *ray_weight;  // [rays, 3], [rays]
  T* loss;                       // [1]
  T *grad_parameters, *grad_ray_bias, *grad_background;  // the last [rays, 3], or null
};

template <typename T>
void fused_field(const FieldShape& shape, const FieldTask<T>& task);

}  // namespace medrecon::cpu

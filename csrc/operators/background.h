// SPDX-License-Identifier: Apache-2.0
// What is seen behind the rays: one colour [3] for all, or one for each [rays, 3].
#pragma once

#include <ATen/ops/sum.h>

#include "tensors.h"

namespace medrecon {

inline Tensor of_rays(const char* op, const Tensor& like, const Tensor& background, int64_t rays) {
  const bool one = background.dim() == 1;
  return dense(op, like, background, "background", one ? std::vector<int64_t>{3} : std::vector<int64_t>{rays, 3});
}

inline int64_t stride_of(const Tensor& background) { return background.dim() == 1 ? 0 : 3; }

// The gradient of `background` from those of the rays, [rays, 3].
inline Tensor in_shape_of(const Tensor& background, const Tensor& of_each) {
  return background.dim() == 1 ? at::sum(of_each, {0}) : of_each;
}

}  // namespace medrecon

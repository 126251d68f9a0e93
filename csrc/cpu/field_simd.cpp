// SPDX-License-Identifier: Apache-2.0
// The fused field compiled for each instruction set, and the choice between them at run time.
#include <algorithm>

#include "../core/frustum.h"
#include "field_plan.h"
#include "vector.h"

namespace medrecon::cpu {

#define MR_KERNELS "field.inl.h"
#include "each_isa.inl.h"

template <typename T>
const FieldKernels<T>& field_kernels() {
  return MR_BEST(kernels<T>);
}

template const FieldKernels<float>& field_kernels<float>();
template const FieldKernels<double>& field_kernels<double>();

}  // namespace medrecon::cpu

// SPDX-License-Identifier: Apache-2.0
// The fused grid field compiled for each instruction set, and the choice between them at run time.
#include <algorithm>
#include <vector>

#include "fused_grid_kernels.h"
#include "vector.h"

namespace medrecon::cpu {

#define MR_KERNELS "fused_grid.inl.h"
#include "each_isa.inl.h"

template <typename T>
const FusedGridKernels<T>& fused_grid_kernels() {
  return MR_BEST(fused_grid_of_set<T>);
}

template const FusedGridKernels<float>& fused_grid_kernels<float>();
template const FusedGridKernels<double>& fused_grid_kernels<double>();

}  // namespace medrecon::cpu

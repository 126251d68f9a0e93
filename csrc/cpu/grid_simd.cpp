// SPDX-License-Identifier: Apache-2.0
// The passes of grid_encode, compiled for each instruction set, and the choice between them at run time.
#include <algorithm>
#include <cstring>

#include "grid_passes.h"
#include "vector.h"

namespace medrecon::cpu {

#define MR_KERNELS "grid_passes.inl.h"
#include "each_isa.inl.h"

template <typename T>
const GridPasses<T>& grid_passes() {
  return MR_BEST(grid_table<T>);
}

template const GridPasses<float>& grid_passes<float>();
template const GridPasses<double>& grid_passes<double>();

}  // namespace medrecon::cpu

// SPDX-License-Identifier: Apache-2.0
// The passes of grid_encode, compiled for each instruction set, and the choice between them at run time.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "grid_passes.h"
#include "isa.h"

namespace medrecon::cpu {

namespace baseline {
#include "grid_passes.inl.h"
}  // namespace baseline

#if defined(MR_INSTRUCTION_SETS)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#include "grid_passes.inl.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512vl,avx512bw,prefer-vector-width=512")
namespace avx512 {
#include "grid_passes.inl.h"
}  // namespace avx512
#pragma GCC pop_options
#endif

template <typename T>
const GridPasses<T>& grid_passes() {
#if defined(MR_INSTRUCTION_SETS)
  if (isa() == Isa::avx512) return avx512::table<T>;
  if (isa() == Isa::avx2) return avx2::table<T>;
#endif
  return baseline::table<T>;
}

template const GridPasses<float>& grid_passes<float>();
template const GridPasses<double>& grid_passes<double>();

}  // namespace medrecon::cpu

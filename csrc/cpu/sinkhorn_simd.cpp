// SPDX-License-Identifier: Apache-2.0
// The passes of log_sinkhorn, compiled for each instruction set, and the choice between them at run time. Where the compiler
// is not GCC or the processor not x86-64 there is one: the platform's baseline. Nameless, because a variable template such as
// `table` is the same one in all files otherwise, even if it is const.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "isa.h"
#include "sinkhorn_passes.h"

namespace medrecon::cpu {
namespace {

namespace baseline {
#define MR_TARGET
#include "sinkhorn_passes.inl.h"
#undef MR_TARGET
}  // namespace baseline

#if defined(MR_INSTRUCTION_SETS)
namespace avx2 {
#define MR_TARGET __attribute__((target("avx2,fma")))
#include "sinkhorn_passes.inl.h"
#undef MR_TARGET
}  // namespace avx2

namespace avx512 {
#define MR_TARGET __attribute__((target("avx2,fma,avx512f,avx512dq,avx512vl,avx512bw,prefer-vector-width=512")))
#include "sinkhorn_passes.inl.h"
#undef MR_TARGET
}  // namespace avx512
#endif

}  // namespace

template <typename T>
const Passes<T>& passes() {
#if defined(MR_INSTRUCTION_SETS)
  if (isa() == Isa::avx512) return avx512::table<T>;
  if (isa() == Isa::avx2) return avx2::table<T>;
#endif
  return baseline::table<T>;
}

template const Passes<float>& passes<float>();
template const Passes<double>& passes<double>();

}  // namespace medrecon::cpu

// SPDX-License-Identifier: Apache-2.0
// The passes of log_sinkhorn, compiled for each instruction set, and the choice between them at run time. Where the compiler
// is not GCC or the processor not x86-64 there is one: the platform's baseline.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include "kernels.h"
#include "sinkhorn_passes.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MR_INSTRUCTION_SETS 1
#endif

// MSVC refuses `omp simd` with plain /openmp; what vectorises without it does so there.
#if defined(_OPENMP) && !defined(_MSC_VER)
#define MR_PRAGMA(...) _Pragma(#__VA_ARGS__)
#else
#define MR_PRAGMA(...)
#endif

namespace medrecon::cpu {

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

namespace {

enum class Level { baseline, avx2, avx512 };

Level level() {
  static const Level chosen = [] {
    Level best = Level::baseline;
#if defined(MR_INSTRUCTION_SETS)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      best = Level::avx2;
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
          __builtin_cpu_supports("avx512bw")) {
        best = Level::avx512;
      }
    }
#endif
    const char* asked = std::getenv("MEDRECON_SIMD");
    const std::string name = asked == nullptr ? "" : asked;
    if (name == "baseline") return Level::baseline;
    if (name == "avx2") return std::min(best, Level::avx2);
    return best;
  }();
  return chosen;
}

}  // namespace

template <typename T>
const Passes<T>& passes() {
#if defined(MR_INSTRUCTION_SETS)
  if (level() == Level::avx512) return avx512::table<T>;
  if (level() == Level::avx2) return avx2::table<T>;
#endif
  return baseline::table<T>;
}

const char* simd() {
  switch (level()) {
    case Level::avx512:
      return "avx512";
    case Level::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

template const Passes<float>& passes<float>();
template const Passes<double>& passes<double>();

}  // namespace medrecon::cpu

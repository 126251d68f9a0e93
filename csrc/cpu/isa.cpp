// SPDX-License-Identifier: Apache-2.0
#include "isa.h"

#include <algorithm>
#include <cstdlib>
#include <string>

namespace medrecon::cpu {
namespace {

Isa best() {
#if defined(MR_INSTRUCTION_SETS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    return wide ? Isa::avx512 : Isa::avx2;
  }
#endif
  return Isa::baseline;
}

Isa chosen() {
  const char* asked = std::getenv("MEDRECON_SIMD");
  const std::string name = asked == nullptr ? "" : asked;
  if (name == "baseline") return Isa::baseline;
  if (name == "avx2") return std::min(best(), Isa::avx2);
  return best();
}

}  // namespace

Isa isa() {
  static const Isa fixed = chosen();
  return fixed;
}

const char* simd() {
  switch (isa()) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

const char* threading() {
#if defined(_OPENMP)
  return "openmp";
#else
  return "serial";
#endif
}

}  // namespace medrecon::cpu

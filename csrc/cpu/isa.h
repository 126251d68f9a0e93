// SPDX-License-Identifier: Apache-2.0
// The instruction sets that kernels are compiled for, and the one that this processor runs.
//
// What gains from wide vectors is written once in NAME.inl.h, without guards, and compiled for each set from NAME_simd.cpp by
// each_isa.inl.h, into namespaces baseline, avx2 and avx512; the choice between them is made by isa() at run time. Nothing else
// is ever compiled for more than the platform's baseline: a wheel runs on any processor.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(MR_PLAIN_VECTORS)
#define MR_INSTRUCTION_SETS 1
#endif

// MSVC refuses `omp simd` with plain /openmp; what vectorises without it does so there.
#if defined(_OPENMP) && !defined(_MSC_VER)
#define MR_PRAGMA(...) _Pragma(#__VA_ARGS__)
#else
#define MR_PRAGMA(...)
#endif

namespace medrecon::cpu {

// avx2: AVX2 and FMA. avx512: F, DQ, VL and BW as well.
enum class Isa { baseline, avx2, avx512 };

// The best this processor has; MEDRECON_SIMD=baseline|avx2|avx512 in the environment asks for a lesser one. Fixed at first use.
Isa isa();

// "baseline", "avx2" or "avx512".
const char* simd();

// "openmp" or "serial": what the loops were compiled with.
const char* threading();

}  // namespace medrecon::cpu

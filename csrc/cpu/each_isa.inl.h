// SPDX-License-Identifier: Apache-2.0
// Compiles the file named by MR_KERNELS once for each instruction set, in namespaces baseline, avx2 and avx512 of the
// current one, each with the vectors of that set (vector.inl.h) in scope. MR_BEST(name) is then the one that this processor runs.
//
//     #include "vector.h"                    // and every other header the kernels need: NAME.inl.h includes none itself
//     namespace medrecon::cpu {
//     #define MR_KERNELS "NAME.inl.h"
//     #include "each_isa.inl.h"
//     }
//
// The pragma also governs lambdas and templates written between push and pop, and leaves templates of other headers alone.

#define MR_VECTOR_BYTES 16
namespace baseline {
#include "vector.inl.h"
#include MR_KERNELS
}  // namespace baseline
#undef MR_VECTOR_BYTES

#if defined(MR_INSTRUCTION_SETS)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define MR_VECTOR_BYTES 32
namespace avx2 {
#include "vector.inl.h"
#include MR_KERNELS
}  // namespace avx2
#undef MR_VECTOR_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512vl,avx512bw,prefer-vector-width=512")
#define MR_VECTOR_BYTES 64
namespace avx512 {
#include "vector.inl.h"
#include MR_KERNELS
}  // namespace avx512
#undef MR_VECTOR_BYTES
#pragma GCC pop_options

#define MR_BEST(name) (isa() == Isa::avx512 ? avx512::name : isa() == Isa::avx2 ? avx2::name : baseline::name)
#else
#define MR_BEST(name) (baseline::name)
#endif

#undef MR_KERNELS

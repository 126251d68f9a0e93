// SPDX-License-Identifier: Apache-2.0
// Products of small matrices by a whole block of threads, in the precisions of the fused field; for .cu files only.
//
// An engine says what numbers are computed with and what is kept in memory: Exact<float> and Exact<double> multiply with
// ordinary instructions, Tf32 and Bf16 with the matrix units, which round the factors and sum in float. All sizes are
// multiples of 16. A sum's order depends on the sizes alone.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "../core/hd.h"

// Of the GPU that is compiled for; fused_field is not called on one without.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define MR_MATRIX_UNITS 1
#else
#define MR_MATRIX_UNITS 0
#endif

namespace medrecon::cuda {

constexpr int kLanes = 32;

struct Brain {  // the upper half of a float
  uint16_t bits;
};

MR_HD float number_of(float x) { return x; }
MR_HD double number_of(double x) { return x; }
MR_HD float number_of(Brain x) {
  const uint32_t bits = uint32_t{x.bits} << 16;
  float y;
  memcpy(&y, &bits, sizeof(y));
  return y;
}

MR_HD void keep(float x, float* to) { *to = x; }
MR_HD void keep(double x, double* to) { *to = x; }
MR_HD void keep(float x, Brain* to) {  // to the nearest, ties to even
#if MR_MATRIX_UNITS
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to->bits) : "f"(x));
#else
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  if (x == x) bits += 0x7fff + (bits >> 16 & 1);
  to->bits = static_cast<uint16_t>(bits >> 16);
#endif
}

// The float as the matrix units take it: to the nearest of 10 bits behind the point, ties away from 0.
MR_HD uint32_t tf32_of(float x) {
  uint32_t bits;
#if MR_MATRIX_UNITS
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
#else
  memcpy(&bits, &x, sizeof(bits));
  if (x == x) bits = (bits + 0x1000) & ~uint32_t{0x1fff};
#endif
  return bits;
}

// c [16, 8] += a [16, k] b [k, 8], k = 8 or 16, by a warp. Which lane has which element: PTX ISA, fragments for mma.
#if defined(__CUDACC__)
__device__ __forceinline__ void multiply_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if MR_MATRIX_UNITS
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
__device__ __forceinline__ void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if MR_MATRIX_UNITS
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
#endif

// Row after row, `stride` numbers apart; transposed: column after column.
template <typename S, bool Transposed = false>
struct Matrix {
  S* at;
  int stride;

  __device__ Matrix<S, !Transposed> transposed() const { return {at, stride}; }
  __device__ S* operator()(int i, int j) const { return Transposed ? at + j * stride + i : at + i * stride + j; }
};

template <typename T>
struct Exact {
  using Number = T;
  using Stored = T;
  static constexpr int kPad = sizeof(T) == sizeof(float) ? 1 : 0;  // behind each row: rows begin in different banks
  static constexpr int kBlocks = sizeof(T) == sizeof(float) ? 2 : 1;  // at a time, as far as registers go

  // finish(i, j, sum) for each element of a [m, k] b [k, n].
  template <typename A, typename B, typename Finish>
  __device__ static void multiply(const A& a, const B& b, int m, int n, int k, const Finish& finish) {
    constexpr int kSide = 4;  // of the elements of a thread, which are m / 4 rows and n / 4 columns apart
    const int rows = m / kSide, columns = n / kSide;
    for (int job = threadIdx.x; job < rows * columns; job += blockDim.x) {
      const int i0 = job % rows, j0 = job / rows;
      T sums[kSide][kSide] = {};
      for (int p = 0; p < k; ++p) {
        T left[kSide], right[kSide];
        for (int i = 0; i < kSide; ++i) left[i] = *a(i0 + i * rows, p);
        for (int j = 0; j < kSide; ++j) right[j] = *b(p, j0 + j * columns);
        for (int i = 0; i < kSide; ++i) {
          for (int j = 0; j < kSide; ++j) sums[i][j] += left[i] * right[j];
        }
      }
      for (int i = 0; i < kSide; ++i) {
        for (int j = 0; j < kSide; ++j) finish(i0 + i * rows, j0 + j * columns, sums[i][j]);
      }
    }
  }
};

// What a lane gives to the matrix units: `group` is its row of a and column of b, `part` its place along k.
struct Tf32Fragments {
  using Stored = float;
  static constexpr int kDepth = 8;

  template <typename A>
  __device__ static void left(const A& a, int i, int p, int group, int part, uint32_t (&out)[4]) {
    for (int r = 0; r < 4; ++r) out[r] = tf32_of(*a(i + group + 8 * (r & 1), p + part + 4 * (r >> 1)));
  }
  template <typename B>
  __device__ static void right(const B& b, int p, int j, int group, int part, uint32_t (&out)[2]) {
    for (int r = 0; r < 2; ++r) out[r] = tf32_of(*b(p + part + 4 * r, j + group));
  }
  __device__ static void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { multiply_tf32(c, a, b); }
};

struct Bf16Fragments {
  using Stored = Brain;
  static constexpr int kDepth = 16;

  // Two neighbours of a row; in one read where they are neighbours in memory too.
  __device__ static uint32_t pair(const Matrix<Brain>& m, int i, int j) {
    uint32_t both;
    memcpy(&both, __builtin_assume_aligned(m(i, j), sizeof(both)), sizeof(both));
    return both;
  }
  __device__ static uint32_t pair(const Matrix<Brain, true>& m, int i, int j) {
    return m(i, j)->bits | uint32_t{m(i, j + 1)->bits} << 16;
  }
  template <typename A>
  __device__ static void left(const A& a, int i, int p, int group, int part, uint32_t (&out)[4]) {
    for (int r = 0; r < 4; ++r) out[r] = pair(a, i + group + 8 * (r & 1), p + 2 * part + 8 * (r >> 1));
  }
  template <typename B>
  __device__ static void right(const B& b, int p, int j, int group, int part, uint32_t (&out)[2]) {
    for (int r = 0; r < 2; ++r) out[r] = pair(b.transposed(), j + group, p + 2 * part + 8 * r);
  }
  __device__ static void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { multiply_bf16(c, a, b); }
};

template <typename Fragments, int Pad>
struct MatrixUnits {
  using Number = float;
  using Stored = typename Fragments::Stored;
  static constexpr int kPad = Pad, kBlocks = 2;

  // A warp makes 16 x 32 elements at a time.
  template <typename A, typename B, typename Finish>
  __device__ static void multiply(const A& a, const B& b, int m, int n, int k, const Finish& finish) {
    constexpr int kTiles = 4;
    const int lane = threadIdx.x % kLanes, group = lane / 4, part = lane % 4, rows = m / 16, columns = (n + 31) / 32;
    for (int job = threadIdx.x / kLanes; job < rows * columns; job += blockDim.x / kLanes) {
      const int i0 = job % rows * 16, j0 = job / rows * 32;
      float sums[kTiles][4] = {};
      for (int p = 0; p < k; p += Fragments::kDepth) {
        uint32_t left[4], right[2];
        Fragments::left(a, i0, p, group, part, left);
        for (int t = 0; t < kTiles; ++t) {
          if (j0 + 8 * t >= n) continue;
          Fragments::right(b, p, j0 + 8 * t, group, part, right);
          Fragments::multiply(sums[t], left, right);
        }
      }
      for (int t = 0; t < kTiles; ++t) {
        if (j0 + 8 * t >= n) continue;
        for (int r = 0; r < 4; ++r) finish(i0 + group + 8 * (r >> 1), j0 + 8 * t + 2 * part + (r & 1), sums[t][r]);
      }
    }
  }
};

// Padding: the 8 groups x 4 parts of a warp read 32 different banks.
using Tf32 = MatrixUnits<Tf32Fragments, 4>;
using Bf16 = MatrixUnits<Bf16Fragments, 8>;

}  // namespace medrecon::cuda

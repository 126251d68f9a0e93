// SPDX-License-Identifier: Apache-2.0
// What lets the same maths compile for the host (any C++17 compiler) and the device (nvcc).
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define MR_HD __host__ __device__ __forceinline__
#else
#define MR_HD inline
#endif

namespace medrecon {

// sin and cos of the same angle, with full range reduction: encodings reach 2^15 x, where fast-math variants are wrong.
MR_HD void sin_cos(float x, float* s, float* c) {
#if defined(__CUDA_ARCH__)
  sincosf(x, s, c);
#else
  *s = std::sin(x);
  *c = std::cos(x);
#endif
}

MR_HD void sin_cos(double x, double* s, double* c) {
#if defined(__CUDA_ARCH__)
  sincos(x, s, c);
#else
  *s = std::sin(x);
  *c = std::cos(x);
#endif
}

MR_HD float exponential(float x) {
#if defined(__CUDA_ARCH__)
  return expf(x);
#else
  return std::exp(x);
#endif
}

MR_HD double exponential(double x) {
#if defined(__CUDA_ARCH__)
  return exp(x);
#else
  return std::exp(x);
#endif
}

// 2^degree, exact; |degree| is at most 32 (checked by the callers).
template <typename T>
MR_HD T power_of_two(int64_t degree) {
  const T magnitude = static_cast<T>(int64_t{1} << (degree < 0 ? -degree : degree));
  return degree < 0 ? T(1) / magnitude : magnitude;
}

}  // namespace medrecon

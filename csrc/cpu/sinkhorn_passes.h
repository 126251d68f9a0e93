// SPDX-License-Identifier: Apache-2.0
// The passes over a block of rows that log_sinkhorn's CPU kernel spends its time in: one table of them per instruction set.
//
// They see the matrix in a scaled form, K_ij = exp(z_ij + F_i + G_j) for fixed potentials F and G, in rows of `stride`
// numbers with zeros behind the last column. What is below Limits::flush_log becomes 0, so no product with a scaling within
// Limits::scaling is ever subnormal.
#pragma once

#include <cstdint>

namespace medrecon::cpu {

// flush_log: entries of K below exp() of it are 0. scaling: largest scaling of a row or column, and one over the smallest.
// smallest_sum: a sum of K over n entries, each scaled by at most 1, that is n times this has lost nothing to flushing.
// rebase_log: how far the backward pass may be from the potentials that its K was made of.
template <typename T>
struct Limits;

template <>
struct Limits<float> {
  static constexpr float flush_log = -55.45f;       // 2^-80
  static constexpr float scaling = 1.0995116e12f;   // 2^40
  static constexpr float smallest_sum = 1.3877788e-17f;  // 2^-56: 2^-80 / 2^-24
  static constexpr float rebase_log = 16.f;         // 2^23
};

template <>
struct Limits<double> {
  static constexpr double flush_log = -415.88;            // 2^-600
  static constexpr double scaling = 2.037035976334486e90;  // 2^300
  static constexpr double smallest_sum = 2.1705e-165;      // 2^-547: 2^-600 / 2^-53
  static constexpr double rebase_log = 128.;
};

// One problem in scaled form. bins: n copies of the dustbin's score, its row of z.
template <typename T>
struct Scaled {
  int64_t m, n, stride;
  const T* scores;
  const T* bins;
  T bin;
  T* kernel;

  const T* row_of_scores(int64_t i) const { return i < m ? scores + i * n : bins; }
};

// Smallest and largest of what a pass has computed; NaNs are left out (they show in every sum over columns).
template <typename T>
struct Extent {
  T least, most;
};

template <typename T>
struct Passes {
  // f_i = log a_i - log sum_j exp(z_ij + g_j); most_j = max_i z_ij + f_i over the rows [begin, end)
  void (*potentials)(const Scaled<T>&, int64_t begin, int64_t end, const T* g, T* f, T* most);
  // K_ij = exp(z_ij + f_i + g_j), and its column sums
  void (*scale)(const Scaled<T>&, int64_t begin, int64_t end, const T* f, const T* g, T* sums);
  // y_i = a_i / (K x)_i, sums = K^T y; returns the extent of K x, and that of y in `scalings`
  Extent<T> (*iterate)(const Scaled<T>&, int64_t begin, int64_t end, const T* x, T* y, T* sums, Extent<T>* scalings);
  // y_i = alpha_i - beta_i (K x)_i
  void (*dot)(const Scaled<T>&, int64_t begin, int64_t end, const T* x, const T* alpha, const T* beta, T* y);
  // sums = K^T y
  void (*accumulate)(const Scaled<T>&, int64_t begin, int64_t end, const T* y, T* sums);
  // dot, then accumulate, reading K once
  void (*adjoint)(const Scaled<T>&, int64_t begin, int64_t end, const T* x, const T* alpha, const T* beta, T* y, T* sums);
  // grad_ij -= K_ij sum_t left_ti right_tj; the dustbin's part of a row is added to grad_bin_i
  void (*outer)(const Scaled<T>&, int64_t begin, int64_t end, int64_t terms, const T* left, const T* right, T* scratch,
                T* grad, T* grad_bin);
  // total_j = sum over blocks of sums_bj, j < stride
  void (*combine)(int64_t blocks, int64_t stride, const T* sums, T* total);
};

// The table for this processor; MEDRECON_SIMD=baseline|avx2|avx512 in the environment asks for a lesser one.
template <typename T>
const Passes<T>& passes();

}  // namespace medrecon::cpu

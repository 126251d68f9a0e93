// SPDX-License-Identifier: Apache-2.0
// Entropic optimal transport between M and N items with a dustbin on each side (SuperGlue, Sarlin et al. 2020, eq. 8-10).
//
// Scores z [M + 1, N + 1] are the items' scores with a row and a column of the dustbin's score behind them; masses are 1 for
// an item, N for the last row and M for the last column. One iteration on the log potentials f (rows) and g (columns) is
//   f_i = log a_i - log sum_j exp(z_ij + g_j),    g_j = log b_j - log sum_i exp(z_ij + f_i)
// and the log of the plan is z + f + g after the last. With p_ij = exp(z_ij + f_i + g_j) / b_j (a softmax down each column)
// and q_ij = exp(z_ij + f_i + g'_j) / a_i (along each row, g' the g before), the adjoint of one iteration is
//   df_i -= sum_j p_ij dg_j,    dg'_j = -sum_i q_ij df_i,    dz_ij -= p_ij dg_j + q_ij df_i.
#pragma once

#include "hd.h"

namespace medrecon {

MR_HD float logarithm(float x) {
#if defined(__CUDA_ARCH__)
  return logf(x);
#else
  return std::log(x);
#endif
}

MR_HD double logarithm(double x) {
#if defined(__CUDA_ARCH__)
  return log(x);
#else
  return std::log(x);
#endif
}

// One problem of a batch; scores [m, n].
template <typename T>
struct Transport {
  int64_t m, n;
  const T* scores;
  T bin;

  MR_HD int64_t rows() const { return m + 1; }
  MR_HD int64_t columns() const { return n + 1; }
  MR_HD T score(int64_t i, int64_t j) const { return i < m && j < n ? scores[i * n + j] : bin; }
  MR_HD T row_mass(int64_t i) const { return i < m ? T(1) : static_cast<T>(n); }
  MR_HD T column_mass(int64_t j) const { return j < n ? T(1) : static_cast<T>(m); }
};

// log sum exp of a stream of numbers in one pass: the largest so far, and the sum relative to it. -inf adds nothing; NaN
// stays.
template <typename T>
struct LogSum {
  T most, sum;

  MR_HD LogSum() : most(-static_cast<T>(INFINITY)), sum(T(0)) {}

  MR_HD void add(T x) {
    if (x > most) {
      sum = sum * exponential(most - x) + T(1);
      most = x;
    } else if (x != -static_cast<T>(INFINITY)) {
      sum += exponential(x - most);
    }
  }

  MR_HD void merge(const LogSum& other) {
    if (other.most > most) {
      sum = sum * exponential(most - other.most) + other.sum;
      most = other.most;
    } else {
      sum += other.most > -static_cast<T>(INFINITY) ? other.sum * exponential(other.most - most) : other.sum;
    }
  }

  MR_HD T value() const { return most + logarithm(sum); }
};

}  // namespace medrecon

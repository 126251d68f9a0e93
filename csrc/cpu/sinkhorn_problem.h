// SPDX-License-Identifier: Apache-2.0
// One optimal transport problem on the CPU: its matrix in scaled form, and the passes over it split among threads.
//
// The split into blocks of rows is fixed, and so is the order in which their column sums are added: results do not depend on
// the number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "../core/sinkhorn.h"
#include "parallel.h"
#include "sinkhorn_passes.h"

namespace medrecon::cpu {

constexpr int64_t kBlockRows = 32;

// Zeros on a cache line's boundary.
template <typename T>
class Aligned {
 public:
  explicit Aligned(int64_t size) : memory_(static_cast<size_t>(size) + kLine / sizeof(T)) {
    void* start = memory_.data();
    size_t space = memory_.size() * sizeof(T);
    data_ = static_cast<T*>(std::align(kLine, static_cast<size_t>(size) * sizeof(T), start, space));
  }
  T* get() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  static constexpr size_t kLine = 64;
  std::vector<T> memory_;
  T* data_;
};

template <typename T>
class SinkhornProblem {
 public:
  const int64_t rows, columns, stride, blocks;

  // Potentials are base + log(scaling): of rows f + log u, of columns g + log v. After absorb(), u is 1.
  Aligned<T> f, u, g, v;
  Aligned<T> total;  // column sums of the last pass

  SinkhornProblem(int64_t m, int64_t n)
      : rows(m + 1),
        columns(n + 1),
        stride((columns + 15) / 16 * 16),
        blocks((rows + kBlockRows - 1) / kBlockRows),
        f(rows),
        u(rows),
        g(stride),
        v(stride),
        total(stride),
        passes_(passes<T>()),
        bins_(stride),
        sums_(blocks * stride),
        next_(stride),
        wanted_(stride),
        kernel_(rows * stride) {
    scaled_.m = m;
    scaled_.n = n;
    scaled_.stride = stride;
    scaled_.kernel = kernel_.get();
  }

  void load(const T* scores, T bin) {
    transport_ = {scaled_.m, scaled_.n, scores, bin};
    scaled_.scores = scores;
    scaled_.bin = bin;
    scaled_.bins = bins_.get();
    std::fill(bins_.get(), bins_.get() + stride, bin);
    std::fill(f.get(), f.get() + rows, T(0));
    std::fill(u.get(), u.get() + rows, T(1));
    std::fill(g.get(), g.get() + stride, T(0));
    std::fill(v.get(), v.get() + columns, T(1));
  }

  const Transport<T>& transport() const { return transport_; }
  T row_potential(int64_t i) const { return f[i] + std::log(u[i]); }
  T column_potential(int64_t j) const { return g[j] + std::log(v[j]); }

  // One iteration. Scalings are updated where that is exact; else it is computed on the logs, which also remakes K.
  void iterate(bool first) {
    if (first || !iterate_scalings()) iterate_potentials();
  }

  // K = exp(z + f + g) for the f and g that have been put there.
  void rescale() {
    each_block([&](int64_t, int64_t begin, int64_t end, T* sums) {
      passes_.scale(scaled_, begin, end, f.get(), g.get(), sums);
    });
  }

  // y = alpha - beta K x
  void dot(const T* x, const T* alpha, const T* beta, T* y) {
    each_block([&](int64_t, int64_t begin, int64_t end, T*) { passes_.dot(scaled_, begin, end, x, alpha, beta, y); });
  }

  // total = K^T y
  void accumulate(const T* y) {
    each_block([&](int64_t, int64_t begin, int64_t end, T* sums) { passes_.accumulate(scaled_, begin, end, y, sums); });
    passes_.combine(blocks, stride, sums_.get(), total.get());
  }

  // y = alpha - beta K x, total = K^T y
  void adjoint(const T* x, const T* alpha, const T* beta, T* y) {
    each_block([&](int64_t, int64_t begin, int64_t end, T* sums) {
      passes_.adjoint(scaled_, begin, end, x, alpha, beta, y, sums);
    });
    passes_.combine(blocks, stride, sums_.get(), total.get());
  }

  // grad -= K * (left^T right), see Passes::outer
  void subtract_outer(int64_t terms, const T* left, const T* right, T* grad, T* grad_bin) {
    each_block([&](int64_t, int64_t begin, int64_t end, T* scratch) {
      passes_.outer(scaled_, begin, end, terms, left, right, scratch, grad, grad_bin);
    });
  }

  // body(block, first row, last row + 1, the block's own `stride` numbers)
  template <typename Body>
  void each_block(const Body& body) {
    parallel_for(blocks, kBlockRows * stride, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        body(b, b * kBlockRows, std::min(rows, (b + 1) * kBlockRows), sums_.get() + b * stride);
      }
    });
  }

 private:
  // False, with v as it was, where flushed entries of K or a large scaling might have spoiled the result.
  bool iterate_scalings() {
    using L = Limits<T>;
    std::vector<Extent<T>> dots(static_cast<size_t>(blocks)), scalings(dots);
    each_block([&](int64_t b, int64_t begin, int64_t end, T* sums) {
      dots[b] = passes_.iterate(scaled_, begin, end, v.get(), u.get(), sums, &scalings[b]);
    });
    passes_.combine(blocks, stride, sums_.get(), total.get());
    T least_dot = dots[0].least, least_u = scalings[0].least, most_u = scalings[0].most, most_v = T(0);
    for (int64_t b = 1; b < blocks; ++b) {
      least_dot = std::min(least_dot, dots[b].least);
      least_u = std::min(least_u, scalings[b].least);
      most_u = std::max(most_u, scalings[b].most);
    }
    for (int64_t j = 0; j < columns; ++j) most_v = std::max(most_v, v[j]);
    bool exact = least_dot >= most_v * (static_cast<T>(columns) * L::smallest_sum);
    exact = exact && most_u <= L::scaling && least_u * L::scaling >= T(1);
    const T least_total = most_u * (static_cast<T>(rows) * L::smallest_sum);
    for (int64_t j = 0; j < columns; ++j) {
      next_[j] = transport_.column_mass(j) / total[j];
      exact = exact && total[j] >= least_total && next_[j] <= L::scaling && next_[j] * L::scaling >= T(1);
    }
    if (exact) std::copy(next_.get(), next_.get() + columns, v.get());
    return exact;
  }

  void iterate_potentials() {
    for (int64_t j = 0; j < columns; ++j) wanted_[j] = column_potential(j);
    each_block([&](int64_t, int64_t begin, int64_t end, T* most) {
      passes_.potentials(scaled_, begin, end, wanted_.get(), f.get(), most);
    });
    for (int64_t j = 0; j < columns; ++j) {
      T most = sums_[j];
      for (int64_t b = 1; b < blocks; ++b) most = std::max(most, sums_[b * stride + j]);
      g[j] = -most;
    }
    rescale();  // its columns' largest entries are 1
    passes_.combine(blocks, stride, sums_.get(), total.get());
    for (int64_t j = 0; j < columns; ++j) v[j] = transport_.column_mass(j) / total[j];
    std::fill(u.get(), u.get() + rows, T(1));
  }

  const Passes<T>& passes_;
  Transport<T> transport_{};
  Scaled<T> scaled_{};
  Aligned<T> bins_, sums_, next_, wanted_, kernel_;
};

// Calls body(problem, index) for each problem of a batch.
template <typename T, typename Body>
void each_problem(int64_t batch, int64_t m, int64_t n, const Body& body) {
  parallel_or_in_turn(batch, [&](int64_t first, int64_t last) {
    SinkhornProblem<T> problem(m, n);
    for (int64_t b = first; b < last; ++b) body(problem, b);
  });
}

}  // namespace medrecon::cpu

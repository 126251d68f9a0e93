// SPDX-License-Identifier: Apache-2.0
// log_sinkhorn on the CPU. An iteration is one pass over K = exp(z + f + g) that multiplies it from both sides (stabilised as
// by Schmitzer, SIAM J. Sci. Comput. 41(3), 2019) in place of two log-sum-exps; where the scalings leave the range in which
// that is exact, the iteration is done on the logs, and K made anew from its potentials.
#include "sinkhorn.h"
#include "sinkhorn_problem.h"

namespace medrecon::cpu {
namespace {

// The adjoint of one problem, see core/sinkhorn.h. In terms of K and the scalings U = exp(f_t - f), V = exp(g_t - g) of the
// iteration at hand: p_ij = K_ij U_i V_j / b_j and q_ij = K_ij U_i V'_j / a_i. So each iteration is again one pass over K,
// and dz = K * (a sum of two outer products per iteration), which is collected and multiplied at the end.
template <typename T>
class Adjoint {
 public:
  Adjoint(SinkhornProblem<T>& problem, int64_t iterations)
      : p_(problem),
        iterations_(iterations),
        history_f_(iterations * p_.rows),
        history_g_((iterations + 1) * p_.columns),
        dg_(p_.stride),
        df_(p_.rows),
        alpha_(p_.rows),
        beta_(p_.rows),
        grad_bin_(p_.rows),
        left_(kMostTerms * p_.rows),
        right_(kMostTerms * p_.stride) {}

  // grad [rows, columns] -> grad_scores [m, n] and the derivative by the dustbin's score
  double run(const T* grad, T* grad_scores) {
    const int64_t m = p_.rows - 1, n = p_.columns - 1;
    record();
    copy_gradient(grad, grad_scores);
    const Transport<T>& z = p_.transport();
    for (int64_t t = iterations_; t > 0; --t) {
      const T* f = history_f_.get() + (t - 1) * p_.rows;
      const T* g = history_g_.get() + t * p_.columns;
      const T* g_before = g - p_.columns;
      if (t == iterations_ || !near(f, p_.f.get(), p_.rows) || !near(g, p_.g.get(), p_.columns)) {
        rebase(grad_scores, [&](int64_t i) { return f[i]; },
               [&](int64_t j) { return g[j] - std::log(z.column_mass(j)); });
      } else if (terms_ + 2 > kMostTerms) {
        flush(grad_scores);
      }
      T* u = left_.get() + terms_ * p_.rows;
      T* x = right_.get() + terms_ * p_.stride;
      ++terms_;
      for (int64_t j = 0; j <= n; ++j) x[j] = std::exp(g[j] - p_.g[j]) * dg_[j] / z.column_mass(j);
      for (int64_t i = 0; i <= m; ++i) {
        u[i] = std::exp(f[i] - p_.f[i]);
        beta_[i] = u[i] * u[i] / z.row_mass(i);
        alpha_[i] = t == iterations_ ? u[i] * df_[i] / z.row_mass(i) : T(0);
      }
      T* y = left_.get() + terms_ * p_.rows;  // U_i df_i / a_i
      if (near(g_before, p_.g.get(), p_.columns)) {
        p_.adjoint(x, alpha_.get(), beta_.get(), y);
      } else {
        p_.dot(x, alpha_.get(), beta_.get(), y);
        for (int64_t i = 0; i <= m; ++i) df_[i] = y[i] * z.row_mass(i) / u[i];
        rebase(grad_scores, [&](int64_t i) { return f[i] - std::log(z.row_mass(i)); },
               [&](int64_t j) { return g_before[j]; });
        y = left_.get() + terms_ * p_.rows;
        std::copy(df_.get(), df_.get() + p_.rows, y);
        p_.accumulate(y);
      }
      T* v = right_.get() + terms_ * p_.stride;
      ++terms_;
      for (int64_t j = 0; j <= n; ++j) {
        v[j] = std::exp(g_before[j] - p_.g[j]);
        dg_[j] = -v[j] * p_.total[j];
      }
    }
    flush(grad_scores);
    double grad_bin = 0;
    for (int64_t i = 0; i <= m; ++i) grad_bin += grad_bin_[i];
    return grad_bin;
  }

 private:
  static constexpr int64_t kMostTerms = 128;  // as many rows of `right` as fit a second-level cache

  void record() {
    for (int64_t t = 0; t < iterations_; ++t) {
      p_.iterate(t == 0);
      for (int64_t i = 0; i < p_.rows; ++i) history_f_[t * p_.rows + i] = p_.row_potential(i);
      for (int64_t j = 0; j < p_.columns; ++j) history_g_[(t + 1) * p_.columns + j] = p_.column_potential(j);
    }
  }

  // The plan is z + f + g: the gradient itself, its row sums, its column sums.
  void copy_gradient(const T* grad, T* grad_scores) {
    const int64_t m = p_.rows - 1, n = p_.columns - 1;
    std::fill(dg_.get(), dg_.get() + p_.stride, T(0));
    for (int64_t i = 0; i <= m; ++i) {
      const T* row = grad + i * p_.columns;
      double sum = 0;
      for (int64_t j = 0; j <= n; ++j) {
        sum += row[j];
        dg_[j] += row[j];
      }
      df_[i] = static_cast<T>(sum);
      grad_bin_[i] = i < m ? row[n] : df_[i];
      if (i < m) std::copy(row, row + n, grad_scores + i * n);
    }
  }

  void flush(T* grad_scores) {
    if (terms_ > 0) p_.subtract_outer(terms_, left_.get(), right_.get(), grad_scores, grad_bin_.get());
    terms_ = 0;
  }

  // Makes K from potentials for which it is at most 1, after what was collected for the K before is used up.
  template <typename Rows, typename Columns>
  void rebase(T* grad_scores, const Rows& f, const Columns& g) {
    flush(grad_scores);
    for (int64_t i = 0; i < p_.rows; ++i) p_.f[i] = f(i);
    for (int64_t j = 0; j < p_.columns; ++j) p_.g[j] = g(j);
    p_.rescale();
  }

  static bool near(const T* a, const T* b, int64_t count) {
    bool all = true;
    for (int64_t k = 0; k < count; ++k) all = all && std::abs(a[k] - b[k]) <= Limits<T>::rebase_log;
    return all;
  }

  SinkhornProblem<T>& p_;
  int64_t iterations_, terms_ = 0;
  Aligned<T> history_f_, history_g_;  // the potentials after each iteration; g also before the first
  Aligned<T> dg_, df_, alpha_, beta_, grad_bin_, left_, right_;
};

}  // namespace

template <typename T>
void log_sinkhorn(int64_t batch, int64_t m, int64_t n, int64_t iterations, const T* scores, const T* bin, T* plan,
                  T*) {
  each_problem<T>(batch, m, n, [=](SinkhornProblem<T>& p, int64_t index) {
    p.load(scores + index * m * n, *bin);
    for (int64_t t = 0; t < iterations; ++t) p.iterate(t == 0);
    std::vector<T> g(static_cast<size_t>(p.columns));
    for (int64_t j = 0; j < p.columns; ++j) g[j] = p.column_potential(j);
    T* out = plan + index * p.rows * p.columns;
    p.each_block([&](int64_t, int64_t begin, int64_t end, T*) {
      for (int64_t i = begin; i < end; ++i) {
        const T f = p.row_potential(i);
        const T* z = scores + (index * m + i) * n;
        T* row = out + i * p.columns;
        for (int64_t j = 0; j < n; ++j) row[j] = (i < m ? z[j] : *bin) + f + g[j];
        row[n] = *bin + f + g[n];
      }
    });
  });
}

template <typename T>
void log_sinkhorn_backward(int64_t batch, int64_t m, int64_t n, int64_t iterations, const T* grad, const T* scores,
                           const T* bin, T* grad_scores, T* grad_bin, T*) {
  std::vector<double> by_bin(static_cast<size_t>(batch));
  each_problem<T>(batch, m, n, [&](SinkhornProblem<T>& p, int64_t index) {
    p.load(scores + index * m * n, *bin);
    by_bin[index] = Adjoint<T>(p, iterations).run(grad + index * p.rows * p.columns, grad_scores + index * m * n);
  });
  double sum = 0;
  for (const double one : by_bin) sum += one;
  *grad_bin = static_cast<T>(sum);
}

#define MR_INSTANTIATE(T)                                                                                          \
  template void log_sinkhorn<T>(int64_t, int64_t, int64_t, int64_t, const T*, const T*, T*, T*);                   \
  template void log_sinkhorn_backward<T>(int64_t, int64_t, int64_t, int64_t, const T*, const T*, const T*, T*, T*, \
                                         T*);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cpu

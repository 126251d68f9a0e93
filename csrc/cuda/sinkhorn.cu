// SPDX-License-Identifier: Apache-2.0
// log_sinkhorn on the GPU, on the logs throughout: one launch per half iteration. Sums have one fixed order.
#include "../core/sinkhorn.h"
#include "sinkhorn.h"
#include "launch.h"

namespace medrecon::cuda {
namespace {

// A block works on a row with all its threads, or on 8 neighbouring columns (a 32-byte sector of floats), 32 threads each.
constexpr int kTile = 8;
constexpr int kLanes = kThreads / kTile;

// The batch of problems; z(b) is one of them.
template <typename T>
struct Batch {
  int64_t count, m, n;
  const T* scores;
  const T* bin;

  MR_HD int64_t rows() const { return m + 1; }
  MR_HD int64_t columns() const { return n + 1; }
  MR_HD int64_t tiles() const { return (n + kTile) / kTile; }
  MR_HD Transport<T> problem(int64_t b) const { return {m, n, scores + b * m * n, *bin}; }
};

// Where a thread of a column kernel works: its column, and the first of its rows (then every kLanes-th).
struct Place {
  int64_t b, column;
  int lane;
};

template <typename T>
__device__ Place place_of(int64_t block, const Batch<T>& batch) {
  const int64_t b = block / batch.tiles();
  return {b, (block - b * batch.tiles()) * kTile + threadIdx.x % kTile, static_cast<int>(threadIdx.x / kTile)};
}

// Sum over the threads of one group; the `groups` groups are interleaved. All threads must call it; the first of each group
// has the result.
template <typename T>
__device__ T reduce_sum(T mine, int groups) {
  __shared__ T sums[kThreads];
  const int me = threadIdx.x;
  sums[me] = mine;
  __syncthreads();
  for (int half = kThreads / 2; half >= groups; half /= 2) {
    if (me < half) sums[me] += sums[me + half];
    __syncthreads();
  }
  const T result = sums[me % groups];
  __syncthreads();
  return result;
}

template <typename T>
__device__ LogSum<T> reduce_log_sum(LogSum<T> mine, int groups) {
  __shared__ T most[kThreads];
  __shared__ T sum[kThreads];
  const int me = threadIdx.x;
  most[me] = mine.most;
  sum[me] = mine.sum;
  __syncthreads();
  for (int half = kThreads / 2; half >= groups; half /= 2) {
    if (me < half) {
      LogSum<T> other;
      other.most = most[me + half];
      other.sum = sum[me + half];
      mine.merge(other);
      most[me] = mine.most;
      sum[me] = mine.sum;
    }
    __syncthreads();
  }
  mine.most = most[me % groups];
  mine.sum = sum[me % groups];
  __syncthreads();
  return mine;
}

// f [count, rows] of g [count, columns]; a block per row
template <typename T>
__global__ void rows_kernel(int64_t blocks, Batch<T> batch, const T* g, T* f) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const int64_t b = block / batch.rows(), i = block - b * batch.rows();
    const Transport<T> z = batch.problem(b);
    LogSum<T> mine;
    for (int64_t j = threadIdx.x; j < z.columns(); j += kThreads) mine.add(z.score(i, j) + g[b * z.columns() + j]);
    const LogSum<T> all = reduce_log_sum(mine, 1);
    if (threadIdx.x == 0) f[block] = logarithm(z.row_mass(i)) - all.value();
  }
}

// g [count, columns] of f [count, rows]; a block per kTile columns
template <typename T>
__global__ void columns_kernel(int64_t blocks, Batch<T> batch, const T* f, T* g) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const Place at = place_of(block, batch);
    const Transport<T> z = batch.problem(at.b);
    LogSum<T> mine;
    if (at.column < z.columns()) {
      for (int64_t i = at.lane; i < z.rows(); i += kLanes) mine.add(z.score(i, at.column) + f[at.b * z.rows() + i]);
    }
    const LogSum<T> all = reduce_log_sum(mine, kTile);
    if (at.lane == 0 && at.column < z.columns()) {
      g[at.b * z.columns() + at.column] = logarithm(z.column_mass(at.column)) - all.value();
    }
  }
}

// plan = z + f + g; a thread per entry
template <typename T>
__global__ void plan_kernel(int64_t total, Batch<T> batch, const T* f, const T* g, T* plan) {
  MR_GRID_STRIDE(index, total) {
    const int64_t row = index / batch.columns(), j = index - row * batch.columns();
    const int64_t b = row / batch.rows(), i = row - b * batch.rows();
    plan[index] = batch.problem(b).score(i, j) + f[row] + g[b * batch.columns() + j];
  }
}

// dg_j = sum_i grad_ij
template <typename T>
__global__ void column_sums_kernel(int64_t blocks, Batch<T> batch, const T* grad, T* dg) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const Place at = place_of(block, batch);
    const int64_t rows = batch.rows(), columns = batch.columns();
    T mine = T(0);
    if (at.column < columns) {
      for (int64_t i = at.lane; i < rows; i += kLanes) mine += grad[(at.b * rows + i) * columns + at.column];
    }
    const T all = reduce_sum(mine, kTile);
    if (at.lane == 0 && at.column < columns) dg[at.b * columns + at.column] = all;
  }
}

// df_i = sum_j (grad_ij - p_ij dg_j); grad is null for all but the last iteration
template <typename T>
__global__ void backward_rows_kernel(int64_t blocks, Batch<T> batch, const T* grad, const T* f, const T* g, const T* dg,
                                     T* df) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const int64_t b = block / batch.rows(), i = block - b * batch.rows(), columns = batch.columns();
    const Transport<T> z = batch.problem(b);
    const T log_m = logarithm(static_cast<T>(z.m));
    T mine = T(0);
    for (int64_t j = threadIdx.x; j < columns; j += kThreads) {
      const int64_t at = b * columns + j;
      const T p = exponential(z.score(i, j) + f[block] + g[at] - (j < z.n ? T(0) : log_m));
      mine += (grad == nullptr ? T(0) : grad[block * columns + j]) - p * dg[at];
    }
    const T all = reduce_sum(mine, 1);
    if (threadIdx.x == 0) df[block] = all;
  }
}

// dg'_j = -sum_i q_ij df_i, with g_before the potentials that this iteration started from
template <typename T>
__global__ void backward_columns_kernel(int64_t blocks, Batch<T> batch, const T* f, const T* g_before, const T* df,
                                        T* dg_before) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const Place at = place_of(block, batch);
    const Transport<T> z = batch.problem(at.b);
    const T log_n = logarithm(static_cast<T>(z.n));
    T mine = T(0);
    if (at.column < z.columns()) {
      const T g = g_before[at.b * z.columns() + at.column];
      for (int64_t i = at.lane; i < z.rows(); i += kLanes) {
        const int64_t row = at.b * z.rows() + i;
        const T q = exponential(z.score(i, at.column) + f[row] + g - (i < z.m ? T(0) : log_n));
        mine -= q * df[row];
      }
    }
    const T all = reduce_sum(mine, kTile);
    if (at.lane == 0 && at.column < z.columns()) dg_before[at.b * z.columns() + at.column] = all;
  }
}

// What the reverse sweep has kept: f, df, dg [iterations, count, rows or columns]; g has the zeros of the start before it.
template <typename T>
struct Kept {
  int64_t iterations;
  T *f, *df, *g, *dg;
};

// dz_ij = grad_ij - sum over the iterations of p_ij dg_j + q_ij df_i
template <typename T>
__device__ T score_gradient(const Batch<T>& batch, const Kept<T>& kept, const T* grad, int64_t b, int64_t i, int64_t j) {
  const Transport<T> z = batch.problem(b);
  const int64_t row = b * z.rows() + i, column = b * z.columns() + j;
  const int64_t next_f = batch.count * z.rows(), next_g = batch.count * z.columns();
  const T score = z.score(i, j), log_a = logarithm(z.row_mass(i)), log_b = logarithm(z.column_mass(j));
  T sum = grad[row * z.columns() + j];
  for (int64_t t = 0; t < kept.iterations; ++t) {
    const T raised = score + kept.f[t * next_f + row];
    sum -= exponential(raised + kept.g[(t + 1) * next_g + column] - log_b) * kept.dg[t * next_g + column] +
           exponential(raised + kept.g[t * next_g + column] - log_a) * kept.df[t * next_f + row];
  }
  return sum;
}

template <typename T>
__global__ void score_gradients_kernel(int64_t total, Batch<T> batch, Kept<T> kept, const T* grad, T* grad_scores) {
  MR_GRID_STRIDE(index, total) {
    const int64_t row = index / batch.n, b = row / batch.m;
    grad_scores[index] = score_gradient(batch, kept, grad, b, row - b * batch.m, index - row * batch.n);
  }
}

// One block for each problem: the last row, then the last column without its corner.
template <typename T>
__global__ void bin_gradients_kernel(int64_t blocks, Batch<T> batch, Kept<T> kept, const T* grad, T* by_problem) {
  for (int64_t b = blockIdx.x; b < blocks; b += gridDim.x) {
    double mine = 0;
    for (int64_t k = threadIdx.x; k < batch.m + batch.n + 1; k += kThreads) {
      const bool along = k <= batch.n;
      mine += score_gradient(batch, kept, grad, b, along ? batch.m : k - batch.columns(), along ? k : batch.n);
    }
    const double all = reduce_sum(mine, 1);
    if (threadIdx.x == 0) by_problem[b] = static_cast<T>(all);
  }
}

template <typename T>
__global__ void sum_kernel(int64_t, int64_t count, const T* values, T* sum) {
  if (blockIdx.x > 0 || threadIdx.x > 0) return;
  double all = 0;
  for (int64_t k = 0; k < count; ++k) all += values[k];
  *sum = static_cast<T>(all);
}

}  // namespace

template <typename T>
int log_sinkhorn(void* stream, int64_t batch, int64_t m, int64_t n, int64_t iterations, const T* scores, const T* bin,
                 T* plan, T* work) {
  if (batch == 0) return 0;
  const Batch<T> problems{batch, m, n, scores, bin};
  T* f = work;
  T* g = f + batch * problems.rows();
  int code = clear(stream, work, batch * (problems.rows() + problems.columns()));
  for (int64_t t = 0; t < iterations && code == 0; ++t) {
    code = launch_blocks(stream, rows_kernel<T>, batch * problems.rows(), problems, g, f);
    if (code == 0) code = launch_blocks(stream, columns_kernel<T>, batch * problems.tiles(), problems, f, g);
  }
  if (code != 0) return code;
  return launch(stream, plan_kernel<T>, batch * problems.rows() * problems.columns(), problems, f, g, plan);
}

template <typename T>
int log_sinkhorn_backward(void* stream, int64_t batch, int64_t m, int64_t n, int64_t iterations, const T* grad,
                          const T* scores, const T* bin, T* grad_scores, T* grad_bin, T* work) {
  const Batch<T> problems{batch, m, n, scores, bin};
  const int64_t step_f = batch * problems.rows(), step_g = batch * problems.columns();
  T* f = work;
  T* df = f + iterations * step_f;
  T* g = df + iterations * step_f;
  T* dg = g + (iterations + 1) * step_g;
  T* by_problem = dg + iterations * step_g;
  const Kept<T> kept{iterations, f, df, g, dg};
  int code = clear(stream, g, step_g);
  for (int64_t t = 0; t < iterations && code == 0; ++t) {
    code = launch_blocks(stream, rows_kernel<T>, step_f, problems, g + t * step_g, f + t * step_f);
    if (code == 0) {
      code = launch_blocks(stream, columns_kernel<T>, batch * problems.tiles(), problems, f + t * step_f,
                           g + (t + 1) * step_g);
    }
  }
  if (code == 0 && iterations > 0) {
    code = launch_blocks(stream, column_sums_kernel<T>, batch * problems.tiles(), problems, grad,
                         dg + (iterations - 1) * step_g);
  }
  for (int64_t t = iterations - 1; t >= 0 && code == 0; --t) {
    const T* last = t == iterations - 1 ? grad : nullptr;
    code = launch_blocks(stream, backward_rows_kernel<T>, step_f, problems, last, f + t * step_f, g + (t + 1) * step_g,
                         dg + t * step_g, df + t * step_f);
    if (code == 0 && t > 0) {
      code = launch_blocks(stream, backward_columns_kernel<T>, batch * problems.tiles(), problems, f + t * step_f,
                           g + t * step_g, df + t * step_f, dg + (t - 1) * step_g);
    }
  }
  if (code == 0) code = launch(stream, score_gradients_kernel<T>, batch * m * n, problems, kept, grad, grad_scores);
  if (code == 0) code = launch_blocks(stream, bin_gradients_kernel<T>, batch, problems, kept, grad, by_problem);
  if (code == 0) code = launch_blocks(stream, sum_kernel<T>, 1, batch, by_problem, grad_bin);
  return code;
}

#define MR_INSTANTIATE(T)                                                                                                \
  template int log_sinkhorn<T>(void*, int64_t, int64_t, int64_t, int64_t, const T*, const T*, T*, T*);                   \
  template int log_sinkhorn_backward<T>(void*, int64_t, int64_t, int64_t, int64_t, const T*, const T*, const T*, T*, T*, \
                                        T*);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cuda

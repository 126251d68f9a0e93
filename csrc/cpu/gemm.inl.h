// SPDX-License-Identifier: Apache-2.0
// Small matrix products held in registers, for matrices in panels of one or two vectors of columns (see field_plan.h):
// C = f(A B + start) by blocks of kBlock rows, and W += A^T D. Included once per instruction set, after vector.inl.h.

// Rows of A that are multiplied together: with two vectors of columns the sums fill half to three quarters of the registers.
constexpr int kBlock = kVectorBytes == 64 ? 8 : 6;

// Keeps a loaded number in a register: otherwise GCC folds the load into each of the operations that use it.
template <typename T>
MR_INLINE void keep(Vec<T>& x) {
#if defined(__GNUC__) && defined(__x86_64__) && !defined(MR_PLAIN_VECTORS)
  asm("" : "+v"(x.v));
#else
  (void)x;
#endif
}

// sums[i][v] += a(i, k) b(k, v) for k < n; a(i, k) lies at a[i * row_step + k * step], the rows of b at b_step.
template <int R, int V, typename T>
MR_INLINE void add_products(const T* a, int64_t row_step, int64_t step, const T* b, int64_t b_step, int64_t n,
                            Vec<T> (&sums)[R][V]) {
  for (int64_t k = 0; k < n; ++k) {
    Vec<T> row[V];
    for (int v = 0; v < V; ++v) {
      row[v] = load(b + v * kLanes<T>);
      keep(row[v]);
    }
#if defined(__GNUC__)
#pragma GCC unroll 8
#endif
    for (int i = 0; i < R; ++i) {
      Vec<T> x = splat(a[i * row_step]);
      keep(x);
      for (int v = 0; v < V; ++v) sums[i][v] = fma(x, row[v], sums[i][v]);
    }
    a += step;
    b += b_step;
  }
}

// The left factor of multiply(): rows of n numbers.
template <typename T>
struct Dense {
  const T* a;
  int64_t stride, n;

  template <int V>
  MR_INLINE void add(int64_t row, const T* panel, Vec<T> (&sums)[kBlock][V]) const {
    add_products<kBlock, V>(a + row * stride, stride, 1, panel, V * kLanes<T>, n, sums);
  }
};

template <int V, typename T, typename Left, typename Edge>
MR_INLINE void multiply_panel(const Left& left, const T* panel, int64_t rows, int64_t column, T* c, int64_t stride,
                              Edge& edge) {
  for (int64_t row = 0; row < rows; row += kBlock) {
    Vec<T> sums[kBlock][V];
    for (int i = 0; i < kBlock; ++i) {
      for (int v = 0; v < V; ++v) sums[i][v] = edge.start(row + i, column + v * kLanes<T>);
    }
    left.add(row, panel, sums);
    for (int i = 0; i < kBlock; ++i) {
      for (int v = 0; v < V; ++v) {
        store(c + (row + i) * stride + column + v * kLanes<T>, edge.finish(row + i, column + v * kLanes<T>, v, sums[i][v]));
      }
    }
  }
  edge.template end<V>(column);
}

// c [rows, columns] = finish(start + left * panels); rows is a multiple of kBlock, columns of a vector; `depth` rows of panels.
template <typename T, typename Left, typename Edge>
void multiply(const Left& left, const T* panels, int64_t depth, int64_t rows, int64_t columns, T* c, int64_t stride,
              Edge edge) {
  int64_t column = 0;
  for (; column + 2 * kLanes<T> <= columns; column += 2 * kLanes<T>) {
    multiply_panel<2>(left, panels + column * depth, rows, column, c, stride, edge);
  }
  if (column < columns) multiply_panel<1>(left, panels + column * depth, rows, column, c, stride, edge);
}

// R rows of W from one panel of D. used: for each block of rows of A how many of its numbers are not zero; null: all.
template <int R, int V, typename T>
void add_outer_block(const T* a, int64_t a_stride, const T* d, int64_t d_stride, int64_t rows, const int32_t* used, int64_t k,
                     T* w) {
  Vec<T> sums[R][V];
  for (int i = 0; i < R; ++i) {
    for (int v = 0; v < V; ++v) sums[i][v] = load(w + (i * V + v) * kLanes<T>);
  }
  for (int64_t begin = 0, end; begin < rows; begin = end) {
    end = rows;
    if (used != nullptr) {
      if (used[begin / kBlock] <= k) {
        end = begin + kBlock;
        continue;
      }
      for (end = begin + kBlock; end < rows && used[end / kBlock] > k;) end += kBlock;
      end = end < rows ? end : rows;
    }
    add_products<R, V>(a + begin * a_stride, 1, a_stride, d + begin * d_stride, d_stride, end - begin, sums);
  }
  for (int i = 0; i < R; ++i) {
    for (int v = 0; v < V; ++v) store(w + (i * V + v) * kLanes<T>, sums[i][v]);
  }
}

template <int V, typename T>
void add_outer_panel(const T* a, int64_t a_stride, int64_t n, const T* d, int64_t d_stride, int64_t rows, const int32_t* used,
                     T* w) {
  int64_t k = 0;
  for (; k + kBlock <= n; k += kBlock) {
    add_outer_block<kBlock, V>(a + k, a_stride, d, d_stride, rows, used, k, w + k * V * kLanes<T>);
  }
  for (; k + 2 <= n; k += 2) add_outer_block<2, V>(a + k, a_stride, d, d_stride, rows, used, k, w + k * V * kLanes<T>);
  if (k < n) add_outer_block<1, V>(a + k, a_stride, d, d_stride, rows, used, k, w + k * V * kLanes<T>);
}

// w [first .. first + n, columns] += a[rows, n]^T d[rows, columns]; w in panels of `depth` rows.
template <typename T>
void add_outer(const T* a, int64_t a_stride, int64_t n, const T* d, int64_t d_stride, int64_t columns, int64_t rows,
               const int32_t* used, T* w, int64_t depth, int64_t first) {
  int64_t column = 0;
  for (; column + 2 * kLanes<T> <= columns; column += 2 * kLanes<T>) {
    add_outer_panel<2>(a, a_stride, n, d + column, d_stride, rows, used, w + column * depth + first * 2 * kLanes<T>);
  }
  if (column < columns) {
    add_outer_panel<1>(a, a_stride, n, d + column, d_stride, rows, used, w + column * depth + first * kLanes<T>);
  }
}

// SPDX-License-Identifier: Apache-2.0
// Blocks of samples in a hash grid, for kernels compiled once per instruction set: cells and weights of a level are computed for
// a whole block by vector code, then the table is visited sample by sample.

constexpr int64_t kCells = 192;

// W numbers in one register; W * sizeof(T) is a power of two.
#if defined(__GNUC__)
template <typename T, int W>
struct PackOf {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
};
template <typename T, int W>
using Pack = typename PackOf<T, W>::type;
#else
template <typename T, int W>
struct Pack {
  T value[W];
  T& operator[](int j) { return value[j]; }
  const T& operator[](int j) const { return value[j]; }
};
template <typename T, int W>
Pack<T, W> operator*(T scale, const Pack<T, W>& p) {
  Pack<T, W> out;
  for (int j = 0; j < W; ++j) out[j] = scale * p[j];
  return out;
}
template <typename T, int W>
Pack<T, W> operator+(const Pack<T, W>& p, const Pack<T, W>& q) {
  Pack<T, W> out;
  for (int j = 0; j < W; ++j) out[j] = p[j] + q[j];
  return out;
}
#endif

template <typename P, typename T>
void load_pack(const T* from, P& pack) {
  std::memcpy(&pack, from, sizeof(P));
}

template <typename T>
struct Points {
  T inside[3][kCells], poison[kCells], sigma[kCells];
};

template <typename T>
struct Cells {
  alignas(64) uint32_t left[4][kCells];
  alignas(64) T weight[4][kCells];  // faded
  alignas(64) T fx[kCells];
  bool wraps;  // some node x + 1 is not the entry after that of x
};

template <bool Hashed, typename T>
void find_cells(const GridLevel& level, bool faded, int64_t count, const Points<T>& points, Cells<T>& cells) {
  const uint32_t n = level.resolution, stride_y = level.stride_y, stride_z = level.stride_z, mask = level.mask;
  uint32_t wraps = 0;
MR_PRAGMA(omp simd reduction(| : wraps))
  for (int64_t s = 0; s < count; ++s) {
    T fx, fy, fz;
    const uint32_t x = grid_node(points.inside[0][s], n, &fx), y0 = grid_node(points.inside[1][s], n, &fy) * stride_y,
                   z0 = grid_node(points.inside[2][s], n, &fz) * stride_z;
    const uint32_t y1 = y0 + stride_y, z1 = z0 + stride_z;
    const uint32_t a = (x + (Hashed ? y0 ^ z0 : y0 + z0)) & mask, b = (x + (Hashed ? y1 ^ z0 : y1 + z0)) & mask;
    const uint32_t c = (x + (Hashed ? y0 ^ z1 : y0 + z1)) & mask, d = (x + (Hashed ? y1 ^ z1 : y1 + z1)) & mask;
    cells.left[0][s] = a;
    cells.left[1][s] = b;
    cells.left[2][s] = c;
    cells.left[3][s] = d;
    wraps |= static_cast<uint32_t>((a == mask) | (b == mask) | (c == mask) | (d == mask));
    cells.fx[s] = fx + points.poison[s];
    cells.weight[0][s] = (T(1) - fy) * (T(1) - fz);
    cells.weight[1][s] = fy * (T(1) - fz);
    cells.weight[2][s] = (T(1) - fy) * fz;
    cells.weight[3][s] = fy * fz;
  }
  cells.wraps = wraps != 0;
  if (!faded) return;
MR_PRAGMA(omp simd)
  for (int64_t s = 0; s < count; ++s) {
    const T left = fade(points.sigma[s], static_cast<T>(n));
    for (int k = 0; k < 4; ++k) cells.weight[k][s] *= left;
  }
}

template <typename T>
void find_cells(const GridLevel& level, bool faded, int64_t count, const Points<T>& points, Cells<T>& cells) {
  if (level.hashed) {
    find_cells<true>(level, faded, count, points, cells);
  } else {
    find_cells<false>(level, faded, count, points, cells);
  }
}

// Asks for the entries that gather or scatter will visit.
template <typename T>
void fetch(const Cells<T>& cells, int64_t count, const T* table, int64_t features) {
#if defined(__GNUC__)
  for (int64_t s = 0; s < count; ++s) {
    for (int k = 0; k < 4; ++k) __builtin_prefetch(table + features * static_cast<int64_t>(cells.left[k][s]));
  }
#else
  (void)cells, (void)count, (void)table, (void)features;
#endif
}

// F is the number of features, or 0: any. An edge's two entries are 2 F numbers in a row unless its level wraps.
template <int F, typename T>
void gather(const GridLevel& level, const Cells<T>& cells, int64_t count, int64_t features, const T* table, int64_t stride,
            T* out) {
  if constexpr (F > 0) {
    using Row = Pack<T, 2 * F>;
    if (!cells.wraps) {
      for (int64_t s = 0; s < count; ++s) {
        Row sum{}, entry;
        for (int k = 0; k < 4; ++k) {
          load_pack(table + F * static_cast<int64_t>(cells.left[k][s]), entry);
          sum = sum + cells.weight[k][s] * entry;
        }
        for (int j = 0; j < F; ++j) out[s * stride + j] = (T(1) - cells.fx[s]) * sum[j] + cells.fx[s] * sum[F + j];
      }
      return;
    }
  }
  for (int64_t s = 0; s < count; ++s) {
    const T fx = cells.fx[s], gx = T(1) - fx;
    for (int64_t j = 0; j < features; ++j) {
      T left = T(0), right = T(0);
      for (int k = 0; k < 4; ++k) {
        left += cells.weight[k][s] * table[features * static_cast<int64_t>(cells.left[k][s]) + j];
        right += cells.weight[k][s] * table[features * static_cast<int64_t>(right_of(level, cells.left[k][s])) + j];
      }
      out[s * stride + j] = gx * left + fx * right;
    }
  }
}

template <int F, typename T>
void scatter(const GridLevel& level, const Cells<T>& cells, int64_t count, int64_t features, const T* grad, int64_t stride,
             T* grad_table) {
  if constexpr (F > 0) {
    using Row = Pack<T, 2 * F>;
    if (!cells.wraps) {
      for (int64_t s = 0; s < count; ++s) {
        Row ends;
        for (int j = 0; j < F; ++j) {
          ends[j] = (T(1) - cells.fx[s]) * grad[s * stride + j];
          ends[F + j] = cells.fx[s] * grad[s * stride + j];
        }
        for (int k = 0; k < 4; ++k) {
          T* entry = grad_table + F * static_cast<int64_t>(cells.left[k][s]);
          Row sum;
          load_pack(entry, sum);
          sum = sum + cells.weight[k][s] * ends;
          std::memcpy(entry, &sum, sizeof(Row));
        }
      }
      return;
    }
  }
  for (int64_t s = 0; s < count; ++s) {
    const T fx = cells.fx[s], gx = T(1) - fx;
    for (int k = 0; k < 4; ++k) {
      T* left = grad_table + features * static_cast<int64_t>(cells.left[k][s]);
      T* right = grad_table + features * static_cast<int64_t>(right_of(level, cells.left[k][s]));
      for (int64_t j = 0; j < features; ++j) {
        left[j] += cells.weight[k][s] * (gx * grad[s * stride + j]);
        right[j] += cells.weight[k][s] * (fx * grad[s * stride + j]);
      }
    }
  }
}

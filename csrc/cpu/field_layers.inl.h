// SPDX-License-Identifier: Apache-2.0
// What happens at the edges of the matrix products of a fused field's network: biases, ReLUs and the way back through them.
// Included once per instruction set, after gemm.inl.h.

template <typename T>
struct BiasThenRelu {
  const T* bias;

  MR_INLINE Vec<T> start(int64_t, int64_t column) const { return load(bias + column); }
  MR_INLINE Vec<T> finish(int64_t, int64_t, int, Vec<T> x) const { return vmax(splat(T(0)), x); }
  template <int V>
  MR_INLINE void end(int64_t) const {}
};

template <typename T>
struct RayBiasThenRelu {
  const T* bias;  // [rays of the tile, stride]
  int64_t stride;
  const int32_t* ray;

  MR_INLINE Vec<T> start(int64_t row, int64_t column) const { return load(bias + ray[row] * stride + column); }
  MR_INLINE Vec<T> finish(int64_t, int64_t, int, Vec<T> x) const { return vmax(splat(T(0)), x); }
  template <int V>
  MR_INLINE void end(int64_t) const {}
};

// The way back through a ReLU whose outputs are h (the results may overwrite it), and the sums of the results' columns.
// outer, across: outer[row] * across[column] comes to the product (the density head); null where there is none.
template <typename T>
struct BackThroughRelu {
  const T *h, *outer, *across;
  int64_t stride;
  T* sums;
  Vec<T> total[2];

  MR_INLINE Vec<T> start(int64_t row, int64_t column) const {
    return outer == nullptr ? splat(T(0)) : splat(outer[row]) * load(across + column);
  }
  MR_INLINE Vec<T> finish(int64_t row, int64_t column, int v, Vec<T> x) {
    const Vec<T> y = select(load(h + row * stride + column) > splat(T(0)), x, splat(T(0)));
    total[v] = total[v] + y;
    return y;
  }
  template <int V>
  MR_INLINE void end(int64_t column) {
    for (int v = 0; v < V; ++v) {
      T* to = sums + column + v * kLanes<T>;
      store(to, load(to) + total[v]);
      total[v] = splat(T(0));
    }
  }
};

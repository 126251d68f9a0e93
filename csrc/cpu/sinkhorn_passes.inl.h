// SPDX-License-Identifier: Apache-2.0
// Bodies of sinkhorn_passes.h; included once per instruction set, inside a namespace of its own, with MR_TARGET set to the
// attribute that selects it. The loops are plain: `omp simd` lets the compiler reorder the sums, so that they vectorise.

template <typename T>
struct Bits;
template <>
struct Bits<float> {
  using Integer = int32_t;
  static constexpr int mantissa = 23, bias = 127, degree = 7;
  static constexpr float magic = 12582912.f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f, most = 60.f;
};
template <>
struct Bits<double> {
  using Integer = int64_t;
  static constexpr int mantissa = 52, bias = 1023, degree = 13;
  static constexpr double magic = 6755399441055744., ln2_high = 6.93147180369123816490e-01,
                          ln2_low = 1.90821492927058770002e-10, most = 600.;
};

template <typename To, typename From>
MR_TARGET inline To bits_as(From from) {
  To to;
  static_assert(sizeof(To) == sizeof(From));
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// exp by the Taylor series on [-ln 2 / 2, ln 2 / 2] and a power of two; 0 below the flushing limit, NaN of NaN. Unlike
// std::exp it is inlined into vector code; the limits are masks because GCC does not vectorise loops with branches.
template <typename T>
MR_TARGET inline T flushed_exp(T x) {
  using B = Bits<T>;
  using I = typename B::Integer;
  constexpr T inverse_factorials[] = {T(1),           T(1),            T(1) / 2,         T(1) / 6,         T(1) / 24,
                                      T(1) / 120,     T(1) / 720,      T(1) / 5040,      T(1) / 40320,     T(1) / 362880,
                                      T(1) / 3628800, T(1) / 39916800, T(1) / 479001600, T(1) / 6227020800};
  const I kept = static_cast<I>(x < Limits<T>::flush_log) - 1, over = -static_cast<I>(x > B::most);
  const T clipped = bits_as<T>((bits_as<I>(x) & kept & ~over) | (bits_as<I>(B::most) & over));
  const T shifted = clipped * T(1.44269504088896340736) + B::magic;  // its low bits are now the nearest integer
  const T n = shifted - B::magic;
  const T r = clipped - n * B::ln2_high - n * B::ln2_low;
  T series = inverse_factorials[B::degree];
#if defined(__GNUC__)
#pragma GCC unroll 16
#endif
  for (int k = B::degree - 1; k >= 0; --k) series = series * r + inverse_factorials[k];
  using U = std::make_unsigned_t<I>;
  const U exponent = static_cast<U>(bits_as<I>(shifted) - bits_as<I>(B::magic) + B::bias) << B::mantissa;
  return series * bits_as<T>(static_cast<I>(exponent) & kept);
}

template <typename T>
MR_TARGET void potentials(const Scaled<T>& p, int64_t begin, int64_t end, const T* g, T* f, T* most) {
  for (int64_t j = 0; j <= p.n; ++j) most[j] = -std::numeric_limits<T>::infinity();
  for (int64_t i = begin; i < end; ++i) {
    const T* z = p.row_of_scores(i);
    T top = p.bin + g[p.n];
MR_PRAGMA(omp simd reduction(max : top))
    for (int64_t j = 0; j < p.n; ++j) top = z[j] + g[j] > top ? z[j] + g[j] : top;
    T sum = T(0);
MR_PRAGMA(omp simd reduction(+ : sum))
    for (int64_t j = 0; j < p.n; ++j) sum += flushed_exp(z[j] + g[j] - top);
    sum += flushed_exp(p.bin + g[p.n] - top);
    const T fi = (i < p.m ? T(0) : std::log(static_cast<T>(p.n))) - (top + std::log(sum));
MR_PRAGMA(omp simd)
    for (int64_t j = 0; j < p.n; ++j) most[j] = z[j] + fi > most[j] ? z[j] + fi : most[j];
    most[p.n] = p.bin + fi > most[p.n] ? p.bin + fi : most[p.n];
    f[i] = fi;
  }
}

template <typename T>
MR_TARGET void scale(const Scaled<T>& p, int64_t begin, int64_t end, const T* f, const T* g, T* sums) {
  std::fill(sums, sums + p.stride, T(0));
  for (int64_t i = begin; i < end; ++i) {
    const T* z = p.row_of_scores(i);
    T* k = p.kernel + i * p.stride;
    const T fi = f[i];
MR_PRAGMA(omp simd)
    for (int64_t j = 0; j < p.n; ++j) {
      const T e = flushed_exp(z[j] + fi + g[j]);
      k[j] = e;
      sums[j] += e;
    }
    k[p.n] = flushed_exp(p.bin + fi + g[p.n]);
    sums[p.n] += k[p.n];
    std::fill(k + p.n + 1, k + p.stride, T(0));
  }
}

template <typename T>
MR_TARGET inline void dot_4(const T* k, int64_t stride, const T* x, T* s) {
  const T *k0 = k, *k1 = k + stride, *k2 = k1 + stride, *k3 = k2 + stride;
  T s0 = T(0), s1 = T(0), s2 = T(0), s3 = T(0);
MR_PRAGMA(omp simd reduction(+ : s0, s1, s2, s3))
  for (int64_t j = 0; j < stride; ++j) {
    s0 += k0[j] * x[j];
    s1 += k1[j] * x[j];
    s2 += k2[j] * x[j];
    s3 += k3[j] * x[j];
  }
  s[0] = s0, s[1] = s1, s[2] = s2, s[3] = s3;
}

template <typename T>
MR_TARGET inline void dot_1(const T* k, int64_t stride, const T* x, T* s) {
  T sum = T(0);
MR_PRAGMA(omp simd reduction(+ : sum))
  for (int64_t j = 0; j < stride; ++j) sum += k[j] * x[j];
  s[0] = sum;
}

template <typename T>
MR_TARGET inline void add_4(const T* k, int64_t stride, const T* y, T* sums) {
  const T *k0 = k, *k1 = k + stride, *k2 = k1 + stride, *k3 = k2 + stride;
  const T y0 = y[0], y1 = y[1], y2 = y[2], y3 = y[3];
MR_PRAGMA(omp simd)
  for (int64_t j = 0; j < stride; ++j) sums[j] += (k0[j] * y0 + k1[j] * y1) + (k2[j] * y2 + k3[j] * y3);
}

template <typename T>
MR_TARGET inline void add_1(const T* k, int64_t stride, const T* y, T* sums) {
  const T y0 = y[0];
MR_PRAGMA(omp simd)
  for (int64_t j = 0; j < stride; ++j) sums[j] += k[j] * y0;
}

template <typename T>
MR_TARGET Extent<T> iterate(const Scaled<T>& p, int64_t begin, int64_t end, const T* x, T* y, T* sums, Extent<T>* scalings) {
  std::fill(sums, sums + p.stride, T(0));
  Extent<T> dots{std::numeric_limits<T>::max(), T(0)};
  *scalings = dots;
  const auto finish = [&](int64_t i, T s) {
    y[i] = (i < p.m ? T(1) : static_cast<T>(p.n)) / s;
    dots = {s < dots.least ? s : dots.least, s > dots.most ? s : dots.most};
    *scalings = {y[i] < scalings->least ? y[i] : scalings->least, y[i] > scalings->most ? y[i] : scalings->most};
  };
  int64_t i = begin;
  for (; i + 4 <= end; i += 4) {
    T s[4];
    dot_4(p.kernel + i * p.stride, p.stride, x, s);
    for (int r = 0; r < 4; ++r) finish(i + r, s[r]);
    add_4(p.kernel + i * p.stride, p.stride, y + i, sums);
  }
  for (; i < end; ++i) {
    T s;
    dot_1(p.kernel + i * p.stride, p.stride, x, &s);
    finish(i, s);
    add_1(p.kernel + i * p.stride, p.stride, y + i, sums);
  }
  return dots;
}

template <typename T>
MR_TARGET void dot(const Scaled<T>& p, int64_t begin, int64_t end, const T* x, const T* alpha, const T* beta, T* y) {
  int64_t i = begin;
  for (; i + 4 <= end; i += 4) dot_4(p.kernel + i * p.stride, p.stride, x, y + i);
  for (; i < end; ++i) dot_1(p.kernel + i * p.stride, p.stride, x, y + i);
  for (i = begin; i < end; ++i) y[i] = alpha[i] - beta[i] * y[i];
}

template <typename T>
MR_TARGET void accumulate(const Scaled<T>& p, int64_t begin, int64_t end, const T* y, T* sums) {
  std::fill(sums, sums + p.stride, T(0));
  int64_t i = begin;
  for (; i + 4 <= end; i += 4) add_4(p.kernel + i * p.stride, p.stride, y + i, sums);
  for (; i < end; ++i) add_1(p.kernel + i * p.stride, p.stride, y + i, sums);
}

template <typename T>
MR_TARGET void adjoint(const Scaled<T>& p, int64_t begin, int64_t end, const T* x, const T* alpha, const T* beta, T* y,
                       T* sums) {
  std::fill(sums, sums + p.stride, T(0));
  int64_t i = begin;
  for (; i + 4 <= end; i += 4) {
    dot_4(p.kernel + i * p.stride, p.stride, x, y + i);
    for (int r = 0; r < 4; ++r) y[i + r] = alpha[i + r] - beta[i + r] * y[i + r];
    add_4(p.kernel + i * p.stride, p.stride, y + i, sums);
  }
  for (; i < end; ++i) {
    dot_1(p.kernel + i * p.stride, p.stride, x, y + i);
    y[i] = alpha[i] - beta[i] * y[i];
    add_1(p.kernel + i * p.stride, p.stride, y + i, sums);
  }
}

template <typename T>
MR_TARGET void outer(const Scaled<T>& p, int64_t begin, int64_t end, int64_t terms, const T* left, const T* right,
                     T* scratch, T* grad, T* grad_bin) {
  const int64_t rows = p.m + 1;
  for (int64_t i = begin; i < end; ++i) {
    std::fill(scratch, scratch + p.stride, T(0));
    int64_t t = 0;
    for (; t + 4 <= terms; t += 4) {
      const T *r0 = right + t * p.stride, *r1 = r0 + p.stride, *r2 = r1 + p.stride, *r3 = r2 + p.stride;
      const T l0 = left[t * rows + i], l1 = left[(t + 1) * rows + i], l2 = left[(t + 2) * rows + i],
              l3 = left[(t + 3) * rows + i];
MR_PRAGMA(omp simd)
      for (int64_t j = 0; j < p.stride; ++j) scratch[j] += (r0[j] * l0 + r1[j] * l1) + (r2[j] * l2 + r3[j] * l3);
    }
    for (; t < terms; ++t) {
      const T* r = right + t * p.stride;
      const T l = left[t * rows + i];
MR_PRAGMA(omp simd)
      for (int64_t j = 0; j < p.stride; ++j) scratch[j] += r[j] * l;
    }
    const T* k = p.kernel + i * p.stride;
    T bin = k[p.n] * scratch[p.n];
    if (i < p.m) {
      T* row = grad + i * p.n;
MR_PRAGMA(omp simd)
      for (int64_t j = 0; j < p.n; ++j) row[j] -= k[j] * scratch[j];
    } else {
MR_PRAGMA(omp simd reduction(+ : bin))
      for (int64_t j = 0; j < p.n; ++j) bin += k[j] * scratch[j];
    }
    grad_bin[i] -= bin;
  }
}

template <typename T>
MR_TARGET void combine(int64_t blocks, int64_t stride, const T* sums, T* total) {
  std::fill(total, total + stride, T(0));
  for (int64_t b = 0; b < blocks; ++b) {
    const T* s = sums + b * stride;
MR_PRAGMA(omp simd)
    for (int64_t j = 0; j < stride; ++j) total[j] += s[j];
  }
}

template <typename T>
constexpr Passes<T> table{potentials<T>, scale<T>, iterate<T>, dot<T>, accumulate<T>, adjoint<T>, outer<T>, combine<T>};

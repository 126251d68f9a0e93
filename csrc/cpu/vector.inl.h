// SPDX-License-Identifier: Apache-2.0
// Vectors of float and double as wide as the instruction set, for kernels that are compiled once per set (each_isa.inl.h
// includes this inside a namespace of each). Nothing here branches on a lane; NaN goes through unless said otherwise.
//
// MR_VECTOR_BYTES says which instructions there are: 64 is AVX-512, 32 is AVX2 and FMA, 16 the platform's baseline. (The
// compiler's macros cannot: g++ before 13 does not set them for `#pragma GCC target`.) GCC and clang have vector types;
// elsewhere, or with MR_PLAIN_VECTORS, a vector is an array and the compiler may make of its loops what it can.

#if defined(__GNUC__)
#define MR_INLINE inline __attribute__((always_inline))
#define MR_INLINE_LAMBDA __attribute__((always_inline))
#define MR_NOINLINE __attribute__((noinline))
#else
#define MR_INLINE inline
#define MR_INLINE_LAMBDA
#define MR_NOINLINE
#endif

constexpr int kVectorBytes = MR_VECTOR_BYTES;

template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// The parts of a floating-point number. magic: 1.5 * 2^mantissa; added to a small number it rounds it to the nearest
// integer, which is then in the low bits.
template <typename T>
struct Format;
template <>
struct Format<float> {
  using Int = int32_t;
  using Word = uint32_t;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr Word sign = 0x80000000u;
  static constexpr float magic = 12582912.f, integral = 8388608.f;  // from 2^23 on every float is an integer
};
template <>
struct Format<double> {
  using Int = int64_t;
  using Word = uint64_t;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr Word sign = 0x8000000000000000u;
  static constexpr double magic = 6755399441055744., integral = 4503599627370496.;
};

// Lanes<E>: the bare register, of float, double or integers.
#if defined(__GNUC__) && !defined(MR_PLAIN_VECTORS)
template <typename E>
struct Register {
  typedef E Type __attribute__((vector_size(kVectorBytes)));
};
template <typename E>
using Lanes = typename Register<E>::Type;
#else
template <typename E>
struct Lanes {
  E lane[kLanes<E>];
};
#define MR_BINARY(op)                                                           \
  template <typename E>                                                         \
  MR_INLINE Lanes<E> operator op(Lanes<E> a, Lanes<E> b) {                      \
    for (int i = 0; i < kLanes<E>; ++i) a.lane[i] = a.lane[i] op b.lane[i];     \
    return a;                                                                   \
  }
MR_BINARY(+)
MR_BINARY(-)
MR_BINARY(*)
MR_BINARY(/)
MR_BINARY(&)
MR_BINARY(|)
MR_BINARY(^)
#undef MR_BINARY
#define MR_SHIFT(op)                                                            \
  template <typename E>                                                         \
  MR_INLINE Lanes<E> operator op(Lanes<E> a, int by) {                          \
    for (int i = 0; i < kLanes<E>; ++i) a.lane[i] = a.lane[i] op by;            \
    return a;                                                                   \
  }
MR_SHIFT(<<)
MR_SHIFT(>>)
#undef MR_SHIFT
#define MR_COMPARE(op)                                                          \
  template <typename T>                                                         \
  MR_INLINE Lanes<typename Format<T>::Int> operator op(Lanes<T> a, Lanes<T> b) { \
    Lanes<typename Format<T>::Int> r;                                           \
    for (int i = 0; i < kLanes<T>; ++i) r.lane[i] = a.lane[i] op b.lane[i] ? -1 : 0; \
    return r;                                                                   \
  }
MR_COMPARE(<)
MR_COMPARE(<=)
MR_COMPARE(>)
MR_COMPARE(>=)
MR_COMPARE(==)
#undef MR_COMPARE
#endif

// The same bits as another type of the same size.
template <typename To, typename From>
MR_INLINE To bits_as(From from) {
  To to;
  static_assert(sizeof(To) == sizeof(From));
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

template <typename T>
struct Vec {
  Lanes<T> v;
};

template <typename T>
using Words = Lanes<typename Format<T>::Word>;

template <typename T>
MR_INLINE Words<T> words_of(Vec<T> a) {
  return bits_as<Words<T>>(a.v);
}

template <typename T>
MR_INLINE Vec<T> from_words(Words<T> words) {
  return {bits_as<Lanes<T>>(words)};
}

template <typename T>
MR_INLINE Vec<T> load(const T* from) {
  Vec<T> r;
  std::memcpy(&r.v, from, kVectorBytes);
  return r;
}

template <typename T>
MR_INLINE void store(T* to, Vec<T> a) {
  std::memcpy(to, &a.v, kVectorBytes);
}

template <typename E>
MR_INLINE Lanes<E> broadcast(E x) {
#if defined(__GNUC__) && !defined(MR_PLAIN_VECTORS)
  return x - Lanes<E>{};  // x - 0 is x for every x, -0 and NaN too; the compiler makes it a broadcast
#else
  Lanes<E> r;
  for (int i = 0; i < kLanes<E>; ++i) r.lane[i] = x;
  return r;
#endif
}

template <typename T>
MR_INLINE Vec<T> splat(T x) {
  return {broadcast(x)};
}

template <typename T>
MR_INLINE Words<T> splat_word(typename Format<T>::Word word) {
  return broadcast(word);
}

// 0, 1, 2, ...
template <typename T>
MR_INLINE Vec<T> iota() {
  T x[kLanes<T>];
  for (int i = 0; i < kLanes<T>; ++i) x[i] = static_cast<T>(i);
  return load(x);
}

template <typename T>
MR_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { return {a.v + b.v}; }
template <typename T>
MR_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { return {a.v - b.v}; }
template <typename T>
MR_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { return {a.v * b.v}; }
template <typename T>
MR_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) { return {a.v / b.v}; }
template <typename T>
MR_INLINE Vec<T>& operator+=(Vec<T>& a, Vec<T> b) { return a = a + b; }

template <typename T>
MR_INLINE Vec<T> operator-(Vec<T> a) {
  return from_words<T>(words_of(a) ^ splat_word<T>(Format<T>::sign));
}

template <typename T>
MR_INLINE Vec<T> vabs(Vec<T> a) {
  return from_words<T>(words_of(a) & splat_word<T>(~Format<T>::sign));
}

#include "vector_isa.inl.h"

template <typename T>
MR_INLINE Mask<T> operator!=(Vec<T> a, Vec<T> b) {
  return !(a == b);
}

template <typename T>
MR_INLINE bool all(Mask<T> m) {
  return !any(!m);
}

// The smaller, the larger; b where either is NaN, so that vmax(limit, x) keeps the NaN of x.
template <typename T>
MR_INLINE Vec<T> vmin(Vec<T> a, Vec<T> b) { return select(a < b, a, b); }
template <typename T>
MR_INLINE Vec<T> vmax(Vec<T> a, Vec<T> b) { return select(a > b, a, b); }

// The largest integer not above a.
template <typename T>
MR_INLINE Vec<T> vfloor(Vec<T> a) {
  const Vec<T> nearest = vround(a);
  return select(nearest > a, nearest - splat(T(1)), nearest);
}

// Halves known when compiled: so the steps stay in registers.
template <int N, typename T>
MR_INLINE T sum_of(const T* x) {
  if constexpr (N == 1) {
    return x[0];
  } else {
    T half[N / 2];
    for (int i = 0; i < N / 2; ++i) half[i] = x[i] + x[i + N / 2];
    return sum_of<N / 2>(half);
  }
}

// Sum of all lanes, always in the same order: the upper half is added to the lower until one is left.
template <typename T>
MR_INLINE T sum(Vec<T> a) {
  T x[kLanes<T>];
  store(x, a);
  return sum_of<kLanes<T>>(x);
}

#include "vector_math.inl.h"

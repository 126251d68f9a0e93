// SPDX-License-Identifier: Apache-2.0
// Lanes of the vectors of vector.inl.h in other places: running sums along the lanes, triples taken apart and made; and the
// ends of arrays.

// The first n (at least 0, or more than all) lanes.
template <typename T>
MR_INLINE Vec<T> load_some(const T* from, int64_t n) {
  return n >= kLanes<T> ? load(from) : load_part(from, n > 0 ? n : 0);
}

template <typename T>
MR_INLINE void store_some(T* to, Vec<T> a, int64_t n) {
  if (n >= kLanes<T>) {
    store(to, a);
  } else if (n > 0) {
    store_part(to, a, n);
  }
}

template <typename T>
MR_INLINE T first(Vec<T> a) {
  T x[kLanes<T>];
  store(x, a);
  return x[0];
}

template <typename T>
MR_INLINE T largest(Vec<T> a) {
  T x[kLanes<T>];
  store(x, a);
  return *std::max_element(x, x + kLanes<T>);
}

template <typename T>
using Places = Lanes<typename Format<T>::Int>;

template <typename T, typename Rule, int... lane>
MR_INLINE Places<T> places(Rule rule, std::integer_sequence<int, lane...>) {
  return Places<T>{static_cast<typename Format<T>::Int>(rule(lane))...};
}

// Lane i of the result is lane rule(i) of a followed by b; the rule is known at compile time.
template <typename T, typename Rule>
MR_INLINE Vec<T> pick(Vec<T> a, Vec<T> b, Rule rule) {
#if defined(__GNUC__) && !defined(__clang__) && !defined(MR_PLAIN_VECTORS)
  return {__builtin_shuffle(a.v, b.v, places<T>(rule, std::make_integer_sequence<int, kLanes<T>>()))};
#else
  T from[2 * kLanes<T>], to[kLanes<T>];
  store(from, a);
  store(from + kLanes<T>, b);
  for (int i = 0; i < kLanes<T>; ++i) to[i] = from[rule(i)];
  return load(to);
#endif
}

// Lane i is the sum of the lanes up to it.
template <typename T>
MR_INLINE Vec<T> running_sum(Vec<T> a) {
  constexpr int n = kLanes<T>;
  const Vec<T> zero = splat(T(0));
  if constexpr (n > 1) a = a + pick(zero, a, [](int i) { return i < 1 ? 0 : n + i - 1; });
  if constexpr (n > 2) a = a + pick(zero, a, [](int i) { return i < 2 ? 0 : n + i - 2; });
  if constexpr (n > 4) a = a + pick(zero, a, [](int i) { return i < 4 ? 0 : n + i - 4; });
  if constexpr (n > 8) a = a + pick(zero, a, [](int i) { return i < 8 ? 0 : n + i - 8; });
  return a;
}

// Lane i is the sum of the lanes from it on.
template <typename T>
MR_INLINE Vec<T> remaining_sum(Vec<T> a) {
  constexpr int n = kLanes<T>;
  const Vec<T> zero = splat(T(0));
  if constexpr (n > 1) a = a + pick(a, zero, [](int i) { return i + 1 < n ? i + 1 : n; });
  if constexpr (n > 2) a = a + pick(a, zero, [](int i) { return i + 2 < n ? i + 2 : n; });
  if constexpr (n > 4) a = a + pick(a, zero, [](int i) { return i + 4 < n ? i + 4 : n; });
  if constexpr (n > 8) a = a + pick(a, zero, [](int i) { return i + 8 < n ? i + 8 : n; });
  return a;
}

// Lane i of the result is lane i - 1 of a; lane 0 is the last one of `before`.
template <typename T>
MR_INLINE Vec<T> shifted_up(Vec<T> a, Vec<T> before) {
  return pick(before, a, [](int i) { return kLanes<T> - 1 + i; });
}

// Lane i of the result is lane i + 1 of a; the last lane is the first one of `after`.
template <typename T>
MR_INLINE Vec<T> shifted_down(Vec<T> a, Vec<T> after) {
  return pick(a, after, [](int i) { return i + 1; });
}

template <typename T>
MR_INLINE Vec<T> first_everywhere(Vec<T> a) {
  return pick(a, a, [](int) { return 0; });
}

template <typename T>
MR_INLINE Vec<T> last_everywhere(Vec<T> a) {
  return pick(a, a, [](int) { return kLanes<T> - 1; });
}

// Lanes of a, each thrice, as three vectors.
template <typename T>
MR_INLINE void thrice(Vec<T> a, Vec<T> out[3]) {
  out[0] = pick(a, a, [](int i) { return i / 3; });
  out[1] = pick(a, a, [](int i) { return (kLanes<T> + i) / 3; });
  out[2] = pick(a, a, [](int i) { return (2 * kLanes<T> + i) / 3; });
}

// Triples x0 y0 z0 x1 y1 z1 ... in three vectors, taken apart into all x, all y and all z.
template <typename T, int c>
MR_INLINE Vec<T> part_of_triples(const Vec<T> in[3]) {
  constexpr int n = kLanes<T>;
  // lane i is at 3 i + c: from the first two vectors where that is below 2 n
  const Vec<T> low = pick(in[0], in[1], [](int i) { return 3 * i + c < 2 * n ? 3 * i + c : 0; });
  return pick(low, in[2], [](int i) { return 3 * i + c < 2 * n ? i : 3 * i + c - n; });
}

// x, y, z, x, y, z, ... of vectors that have the same number in every lane.
template <typename T>
MR_INLINE void interleaved(Vec<T> x, Vec<T> y, Vec<T> z, Vec<T> out[3]) {
  const Vec<T> xy = pick(x, y, [](int i) { return i == 1 ? kLanes<T> : 0; });  // lane 0: x, lane 1: y
  out[0] = pick(xy, z, [](int i) { return i % 3 == 2 ? kLanes<T> : i % 3; });
  out[1] = pick(xy, z, [](int i) { return (kLanes<T> + i) % 3 == 2 ? kLanes<T> : (kLanes<T> + i) % 3; });
  out[2] = pick(xy, z, [](int i) { return (2 * kLanes<T> + i) % 3 == 2 ? kLanes<T> : (2 * kLanes<T> + i) % 3; });
}

#if defined(__GNUC__)
#define MR_UNROLL _Pragma("GCC unroll 16")
#else
#define MR_UNROLL
#endif

// 16 bytes of lanes: what instructions load, store and permute at no more cost than a whole.
template <typename T>
constexpr int kPart = 16 / static_cast<int>(sizeof(T));

// Parts 0, 1, ... of the vector from places `step` apart.
template <typename T>
MR_INLINE Vec<T> load_parts(const T* from, int64_t step) {
#if MR_VECTOR_BYTES == 64
  const auto part = [&](int k)
                        MR_INLINE_LAMBDA { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + k * step)); };
  __m512i all = _mm512_zextsi128_si512(part(0));
  all = _mm512_maskz_inserti32x4(0xffff, all, part(1), 1);
  all = _mm512_maskz_inserti32x4(0xffff, all, part(2), 2);
  return {bits_as<Lanes<T>>(_mm512_maskz_inserti32x4(0xffff, all, part(3), 3))};
#elif MR_VECTOR_BYTES == 32
  const auto part = [&](int k)
                        MR_INLINE_LAMBDA { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + k * step)); };
  return {bits_as<Lanes<T>>(_mm256_inserti128_si256(_mm256_castsi128_si256(part(0)), part(1), 1))};
#else
  (void)step;
  return load(from);
#endif
}

template <typename T>
MR_INLINE void store_parts(T* to, int64_t step, Vec<T> a) {
#if MR_VECTOR_BYTES == 64
  const __m512i all = bits_as<__m512i>(a.v);
  const auto part = [&](int k) MR_INLINE_LAMBDA { return reinterpret_cast<__m128i*>(to + k * step); };
  _mm_storeu_si128(part(0), _mm512_maskz_extracti32x4_epi32(0xf, all, 0));
  _mm_storeu_si128(part(1), _mm512_maskz_extracti32x4_epi32(0xf, all, 1));
  _mm_storeu_si128(part(2), _mm512_maskz_extracti32x4_epi32(0xf, all, 2));
  _mm_storeu_si128(part(3), _mm512_maskz_extracti32x4_epi32(0xf, all, 3));
#elif MR_VECTOR_BYTES == 32
  const __m256i all = bits_as<__m256i>(a.v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(all));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to + step), _mm256_extracti128_si256(all, 1));
#else
  (void)step;
  store(to, a);
#endif
}

// In each part on its own: lane i of x[j] changes places with lane j of x[i], for kPart vectors x.
template <typename T>
MR_INLINE void transpose_parts(Vec<T>* x) {
  constexpr int n = kLanes<T>, part = kPart<T>;
  const auto low = [](int i) { return (i % 2) * n + i / part * part + i % part / 2; };
  const auto high = [](int i) { return (i % 2) * n + i / part * part + i % part / 2 + part / 2; };
  if constexpr (part == 2) {
    const Vec<T> a = pick(x[0], x[1], low);
    x[1] = pick(x[0], x[1], high);
    x[0] = a;
  } else {
    const auto first_half = [](int i) { return i % 4 < 2 ? i : n + i - 2; };
    const auto second_half = [](int i) { return i % 4 < 2 ? i + 2 : n + i; };
    const Vec<T> a = pick(x[0], x[1], low), b = pick(x[0], x[1], high);
    const Vec<T> c = pick(x[2], x[3], low), d = pick(x[2], x[3], high);
    x[0] = pick(a, c, first_half);
    x[1] = pick(a, c, second_half);
    x[2] = pick(b, d, first_half);
    x[3] = pick(b, d, second_half);
  }
}

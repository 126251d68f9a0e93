// SPDX-License-Identifier: Apache-2.0
// The operations of vector.inl.h (which includes this) that have instructions of their own: comparisons and masks, fused
// multiply-add, rounding, square root, part of a vector.

#if MR_VECTOR_BYTES == 64

// One bit a lane.
template <typename T>
struct Mask {
  uint32_t bits;
};

#define MR_COMPARE(op, code)                                                                                      \
  MR_INLINE Mask<float> operator op(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, code)}; }  \
  MR_INLINE Mask<double> operator op(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, code)}; }
MR_COMPARE(<, _CMP_LT_OQ)
MR_COMPARE(<=, _CMP_LE_OQ)
MR_COMPARE(>, _CMP_GT_OQ)
MR_COMPARE(>=, _CMP_GE_OQ)
MR_COMPARE(==, _CMP_EQ_OQ)
#undef MR_COMPARE

template <typename T>
MR_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) { return {a.bits & b.bits}; }
template <typename T>
MR_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) { return {a.bits | b.bits}; }
template <typename T>
MR_INLINE Mask<T> operator!(Mask<T> a) { return {a.bits ^ ((1u << kLanes<T>) - 1)}; }
template <typename T>
MR_INLINE bool any(Mask<T> a) { return a.bits != 0; }

// yes where the mask is set, no elsewhere.
MR_INLINE Vec<float> select(Mask<float> m, Vec<float> yes, Vec<float> no) {
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(m.bits), no.v, yes.v)};
}
MR_INLINE Vec<double> select(Mask<double> m, Vec<double> yes, Vec<double> no) {
  return {_mm512_mask_blend_pd(static_cast<__mmask8>(m.bits), no.v, yes.v)};
}

// Lanes whose word is odd.
template <typename T>
MR_INLINE Mask<T> odd(Words<T> words) {
  const __m512i w = bits_as<__m512i>(words);
  if constexpr (sizeof(T) == sizeof(float)) {
    return {_mm512_test_epi32_mask(w, _mm512_set1_epi32(1))};
  } else {
    return {_mm512_test_epi64_mask(w, _mm512_set1_epi64(1))};
  }
}

// -a where the top bit of the word is set.
template <typename T>
MR_INLINE Vec<T> flip_sign(Vec<T> a, Words<T> words) {
  constexpr int a_xor_both = 0x78;  // truth table of a ^ (word & sign)
  const __m512i sign = bits_as<__m512i>(splat_word<T>(Format<T>::sign));
  return {bits_as<Lanes<T>>(
      _mm512_ternarylogic_epi32(bits_as<__m512i>(a.v), bits_as<__m512i>(words), sign, a_xor_both))};
}

MR_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
MR_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }

// Masked with all lanes where GCC 12 takes the unmasked intrinsic for the use of something uninitialised; the same code.
MR_INLINE Vec<float> vsqrt(Vec<float> a) { return {_mm512_maskz_sqrt_ps(0xffff, a.v)}; }
MR_INLINE Vec<double> vsqrt(Vec<double> a) { return {_mm512_maskz_sqrt_pd(0xff, a.v)}; }

// a * 2^n where the mask is set, 0 elsewhere
MR_INLINE Vec<float> scaled(Vec<float> a, Vec<float> n, Mask<float> m = {0xffff}) {
  return {_mm512_maskz_scalef_ps(static_cast<__mmask16>(m.bits), a.v, n.v)};
}
MR_INLINE Vec<double> scaled(Vec<double> a, Vec<double> n, Mask<double> m = {0xff}) {
  return {_mm512_maskz_scalef_pd(static_cast<__mmask8>(m.bits), a.v, n.v)};
}

// a less its nearest integer; 0 of infinity
MR_INLINE Vec<float> fraction(Vec<float> a) { return {_mm512_maskz_reduce_ps(0xffff, a.v, _MM_FROUND_TO_NEAREST_INT)}; }
MR_INLINE Vec<double> fraction(Vec<double> a) { return {_mm512_maskz_reduce_pd(0xff, a.v, _MM_FROUND_TO_NEAREST_INT)}; }

// To the nearest integer, ties to the even one.
MR_INLINE Vec<float> vround(Vec<float> a) { return {_mm512_maskz_roundscale_ps(0xffff, a.v, _MM_FROUND_TO_NEAREST_INT)}; }
MR_INLINE Vec<double> vround(Vec<double> a) { return {_mm512_maskz_roundscale_pd(0xff, a.v, _MM_FROUND_TO_NEAREST_INT)}; }

// a[at[0]], a[at[1]], ...
MR_INLINE Vec<float> permute(Vec<float> a, Words<float> at) {
  return {_mm512_maskz_permutexvar_ps(0xffff, bits_as<__m512i>(at), a.v)};
}
MR_INLINE Vec<double> permute(Vec<double> a, Words<double> at) {
  return {_mm512_maskz_permutexvar_pd(0xff, bits_as<__m512i>(at), a.v)};
}

// The first n lanes (0 <= n <= all of them); the others are 0, and their memory is not touched.
MR_INLINE Vec<float> load_part(const float* from, int64_t n) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), from)};
}
MR_INLINE Vec<double> load_part(const double* from, int64_t n) {
  return {_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), from)};
}
MR_INLINE void store_part(float* to, Vec<float> a, int64_t n) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << n) - 1), a.v);
}
MR_INLINE void store_part(double* to, Vec<double> a, int64_t n) {
  _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << n) - 1), a.v);
}

#else

// All bits of a lane set, or none.
template <typename T>
struct Mask {
  Words<T> bits;
};

#define MR_COMPARE(op)                                      \
  template <typename T>                                     \
  MR_INLINE Mask<T> operator op(Vec<T> a, Vec<T> b) {       \
    return {bits_as<Words<T>>(a.v op b.v)};                 \
  }
MR_COMPARE(<)
MR_COMPARE(<=)
MR_COMPARE(>)
MR_COMPARE(>=)
MR_COMPARE(==)
#undef MR_COMPARE

template <typename T>
MR_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) { return {a.bits & b.bits}; }
template <typename T>
MR_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) { return {a.bits | b.bits}; }
template <typename T>
MR_INLINE Mask<T> operator!(Mask<T> a) { return {a.bits ^ splat_word<T>(~typename Format<T>::Word(0))}; }

// yes where the mask is set, no elsewhere.
template <typename T>
MR_INLINE Vec<T> select(Mask<T> m, Vec<T> yes, Vec<T> no) {
  return from_words<T>((m.bits & words_of(yes)) | (words_of(no) & (!m).bits));
}

// -a where the top bit of the word is set.
template <typename T>
MR_INLINE Vec<T> flip_sign(Vec<T> a, Words<T> words) {
  return from_words<T>(words_of(a) ^ (words & splat_word<T>(Format<T>::sign)));
}

// Lanes whose word is odd.
template <typename T>
MR_INLINE Mask<T> odd(Words<T> words) {
  return {splat_word<T>(0) - (words & splat_word<T>(1))};
}

#if MR_VECTOR_BYTES == 32

MR_INLINE bool any(Mask<float> a) { return _mm256_movemask_ps(bits_as<__m256>(a.bits)) != 0; }
MR_INLINE bool any(Mask<double> a) { return _mm256_movemask_pd(bits_as<__m256d>(a.bits)) != 0; }

MR_INLINE Vec<float> select(Mask<float> m, Vec<float> yes, Vec<float> no) {
  return {_mm256_blendv_ps(no.v, yes.v, bits_as<__m256>(m.bits))};
}
MR_INLINE Vec<double> select(Mask<double> m, Vec<double> yes, Vec<double> no) {
  return {_mm256_blendv_pd(no.v, yes.v, bits_as<__m256d>(m.bits))};
}

MR_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
MR_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }

MR_INLINE Vec<float> vsqrt(Vec<float> a) { return {_mm256_sqrt_ps(a.v)}; }
MR_INLINE Vec<double> vsqrt(Vec<double> a) { return {_mm256_sqrt_pd(a.v)}; }

// To the nearest integer, ties to the even one.
MR_INLINE Vec<float> vround(Vec<float> a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT)}; }
MR_INLINE Vec<double> vround(Vec<double> a) { return {_mm256_round_pd(a.v, _MM_FROUND_TO_NEAREST_INT)}; }

// a[at[0]], a[at[1]], ...
MR_INLINE Vec<float> permute(Vec<float> a, Words<float> at) {
  return {_mm256_permutevar8x32_ps(a.v, bits_as<__m256i>(at))};
}
MR_INLINE Vec<double> permute(Vec<double> a, Words<double> at) {
  const Words<double> low = at << 1, pair = low | ((low | splat_word<double>(1)) << 32);  // as pairs of 32-bit words
  return {bits_as<__m256d>(_mm256_permutevar8x32_epi32(bits_as<__m256i>(a.v), bits_as<__m256i>(pair)))};
}

template <typename T>
MR_INLINE __m256i first_lanes(int64_t n) {
  return bits_as<__m256i>((iota<T>() < splat(static_cast<T>(n))).bits);
}

// The first n lanes (0 <= n <= all of them); the others are 0, and their memory is not touched.
MR_INLINE Vec<float> load_part(const float* from, int64_t n) { return {_mm256_maskload_ps(from, first_lanes<float>(n))}; }
MR_INLINE Vec<double> load_part(const double* from, int64_t n) {
  return {_mm256_maskload_pd(from, first_lanes<double>(n))};
}
MR_INLINE void store_part(float* to, Vec<float> a, int64_t n) { _mm256_maskstore_ps(to, first_lanes<float>(n), a.v); }
MR_INLINE void store_part(double* to, Vec<double> a, int64_t n) { _mm256_maskstore_pd(to, first_lanes<double>(n), a.v); }

#else

template <typename T>
MR_INLINE bool any(Mask<T> a) {
  typename Format<T>::Word words[kLanes<T>], joined = 0;
  std::memcpy(words, &a.bits, kVectorBytes);
  for (int i = 0; i < kLanes<T>; ++i) joined |= words[i];
  return joined != 0;
}

// a * b + c; the platform's baseline may have no instruction that rounds once, and then the product is rounded too.
template <typename T>
MR_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) { return a * b + c; }

template <typename T>
MR_INLINE Vec<T> vsqrt(Vec<T> a) {
  T x[kLanes<T>];
  store(x, a);
  for (int i = 0; i < kLanes<T>; ++i) x[i] = std::sqrt(x[i]);
  return load(x);
}

// To the nearest integer, ties to the even one: adding 2^mantissa leaves no room for a fraction.
template <typename T>
MR_INLINE Vec<T> vround(Vec<T> a) {
  const Vec<T> size = vabs(a), integral = splat(Format<T>::integral);
  const Words<T> sign = words_of(a) & splat_word<T>(Format<T>::sign);
  const Vec<T> rounded = from_words<T>(words_of((size + integral) - integral) | sign);
  return select(size < integral, rounded, a);
}

// a[at[0]], a[at[1]], ...
template <typename T>
MR_INLINE Vec<T> permute(Vec<T> a, Words<T> at) {
  T from[kLanes<T>], to[kLanes<T>];
  typename Format<T>::Word words[kLanes<T>];
  store(from, a);
  std::memcpy(words, &at, kVectorBytes);
  for (int i = 0; i < kLanes<T>; ++i) to[i] = from[words[i]];
  return load(to);
}

// The first n lanes (0 <= n <= all of them); the others are 0, and their memory is not touched.
template <typename T>
MR_INLINE Vec<T> load_part(const T* from, int64_t n) {
  T x[kLanes<T>] = {};
  std::memcpy(x, from, static_cast<size_t>(n) * sizeof(T));
  return load(x);
}

template <typename T>
MR_INLINE void store_part(T* to, Vec<T> a, int64_t n) {
  std::memcpy(to, &a.v, static_cast<size_t>(n) * sizeof(T));
}

#endif
#endif

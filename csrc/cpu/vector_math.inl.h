// SPDX-License-Identifier: Apache-2.0
// Elementary functions of the vectors of vector.inl.h (which includes this). The polynomials interpolate at Chebyshev nodes;
// their own error is below a tenth of a rounding of the result.

// p[0] + p[1] x + p[2] x^2 + ... (Horner)
template <typename T, int N>
MR_INLINE Vec<T> polynomial(Vec<T> x, const T (&p)[N]) {
  Vec<T> r = splat(p[N - 1]);
#if defined(__GNUC__)
#pragma GCC unroll 16
#endif
  for (int k = N - 2; k >= 0; --k) r = fma(r, x, splat(p[k]));
  return r;
}

template <typename T>
struct Exponential;
template <>
struct Exponential<float> {
  static constexpr float per_ln2 = 0x1.715476p+0f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float least = -104.f, most = 89.f, lost = -20.f;  // e^least is 0, e^most infinity
  static constexpr float tail[] = {5.e-01f, 1.6666576e-01f, 4.1666552e-02f, 8.363233e-03f, 1.392625e-03f};
};
template <>
struct Exponential<double> {
  static constexpr double per_ln2 = 0x1.71547652b82fep+0, ln2_high = 6.93147180369123816490e-01,
                          ln2_low = 1.90821492927058770002e-10;
  static constexpr double least = -746., most = 710., lost = -40.;
  static constexpr double tail[] = {
      0.5000000000000001,    0.16666666666666669,    0.041666666666623824,   0.008333333333330039,
      0.0013888888917367081, 0.00019841269863171557, 2.4801521057868204e-05, 2.7557268276905696e-06,
      2.7620201591031547e-07, 2.5100472505694996e-08};
};

// 2^n for integral n within the normal exponents: n + bias goes to the low bits, then to its place.
template <typename T>
MR_INLINE Vec<T> power_of_two_of(Vec<T> n) {
  const Vec<T> biased = n + splat(Format<T>::magic + static_cast<T>(Format<T>::bias));
  return from_words<T>(words_of(biased) << Format<T>::mantissa);
}

#if MR_VECTOR_BYTES < 64
// a * 2^n, in two steps: 2^n alone can be too large or too small for a number.
template <typename T>
MR_INLINE Vec<T> scaled(Vec<T> a, Vec<T> n) {
  const Vec<T> half = vround(n * splat(T(0.5)));
  return a * power_of_two_of(half) * power_of_two_of(n - half);
}
#endif

// n and e^r - 1 for x = n ln 2 + r, |r| <= ln 2 / 2; x is not below `least`, and what is above `most` becomes `most`.
template <typename T>
MR_INLINE Vec<T> reduced_exponential(Vec<T> x, Vec<T>* n) {
  using E = Exponential<T>;
  x = vmin(splat(E::most), x);
  const Vec<T> magic = splat(Format<T>::magic);
  *n = fma(x, splat(E::per_ln2), magic) - magic;
  const Vec<T> r = fma(*n, splat(-E::ln2_low), fma(*n, splat(-E::ln2_high), x));
  return fma(r * r, polynomial(r, E::tail), r);
}

// e^x to 2 units in the last place, denormal results included; 0 and infinity beyond. Lanes below Exponential::least are set
// aside first: products that underflow cost a hundred cycles.
template <typename T>
MR_INLINE Vec<T> vexp(Vec<T> x) {
  const Vec<T> zero = splat(T(0));
  const Mask<T> gone = x < splat(Exponential<T>::least);
  Vec<T> n;
  const Vec<T> e = reduced_exponential(select(gone, zero, x), &n);
  return select(gone, zero, scaled(e + splat(T(1)), n));
}

template <typename T>
struct Power;
template <>
struct Power<float> {
  static constexpr float least = -125.f;
  static constexpr float series[] = {6.931472e-01f, 2.402265e-01f,  5.550357e-02f,
                                     9.618083e-03f, 1.3390863e-03f, 1.5453163e-04f};
};
template <>
struct Power<double> {
  static constexpr double least = -1021.;
  static constexpr double series[] = {0.6931471805599453,     0.24022650695910072,   0.055504108664821625,
                                      0.00961812910762848,    0.001333355814640647,  0.00015403530393370734,
                                      1.5252733841556773e-05, 1.3215486808705563e-06, 1.0178057087733941e-07,
                                      7.0548973041554995e-09, 4.4558179083360645e-10, 2.5729324177362305e-11};
};

// 2^x to 2 units in the last place; infinity beyond the largest number and 0 below twice the smallest normal one, which
// makes it the cheapest exponential: for what damps or weighs.
template <typename T>
MR_INLINE Vec<T> vexp2_flushed(Vec<T> x) {
  const Mask<T> gone = x < splat(Power<T>::least);
#if MR_VECTOR_BYTES == 64
  const Vec<T> r = fraction(x);
  return scaled(fma(r, polynomial(r, Power<T>::series), splat(T(1))), x - r, !gone);
#else
  const Vec<T> clipped = vmin(splat(static_cast<T>(Format<T>::bias + 1)), x), n = vround(clipped), r = clipped - n;
  const Vec<T> twice = fma(r + r, polynomial(r, Power<T>::series), splat(T(2)));  // 2^n alone can be too large
  return select(gone, splat(T(0)), twice * power_of_two_of(n - splat(T(1))));
#endif
}

// 2^x as above, and 1 - 2^x, accurate near 0 as well; 0 and 1 for x below the exponents' range, of no meaning above it.
template <typename T>
MR_INLINE void power_and_rest(Vec<T> x, Vec<T>* power, Vec<T>* rest) {
  const Vec<T> zero = splat(T(0)), one = splat(T(1));
  const Mask<T> gone = x < splat(Power<T>::least);
#if MR_VECTOR_BYTES == 64
  const Vec<T> r = fraction(x), whole = scaled(one, x - r, !gone);
#else
  const Vec<T> clipped = select(gone, zero, x), n = vround(clipped), r = clipped - n;
  const Vec<T> whole = select(gone, zero, power_of_two_of(n));
#endif
  const Vec<T> e = r * polynomial(r, Power<T>::series);
  *power = fma(e, whole, whole);
  *rest = fma(zero - e, whole, one - whole);
}

// e^x - 1, accurate near 0 as well; below Exponential::lost it is -1.
template <typename T>
MR_INLINE Vec<T> vexpm1(Vec<T> x) {
  Vec<T> n;
  const Vec<T> e = reduced_exponential(vmax(splat(Exponential<T>::lost), x), &n);
  const Vec<T> half = vround(n * splat(T(0.5))), a = power_of_two_of(half), other = n - half;
  // ((e + 1) 2^half - 2^-other) 2^other; exactly e where n is 0
  return fma(e, a, a - power_of_two_of(-other)) * power_of_two_of(other);
}

template <typename T>
struct Logarithm;
template <>
struct Logarithm<float> {
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float series[] = {2.f / 3, 2.f / 5, 2.f / 7, 2.f / 9};  // of 2 atanh(s) / s - 2 in s^2
};
template <>
struct Logarithm<double> {
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  static constexpr double series[] = {2. / 3, 2. / 5, 2. / 7, 2. / 9, 2. / 11, 2. / 13, 2. / 15, 2. / 17, 2. / 19, 2. / 21};
};

// ln(1 + x), accurate near 0 as well; -infinity at -1, NaN below. 1 + x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)),
// and what 1 + x lost by rounding is put back.
template <typename T>
MR_INLINE Vec<T> vlog1p(Vec<T> x) {
  using F = Format<T>;
  using L = Logarithm<T>;
  using Word = typename F::Word;
  const Vec<T> one = splat(T(1)), u = one + x;
  const Vec<T> lost = select(x > one, one - (u - x), x - (u - one)) / u;
  const Word root_half = bits_as<Word>(static_cast<T>(0.70710678118654752440)), one_word = bits_as<Word>(T(1));
  const Words<T> shifted = words_of(u) + splat_word<T>(one_word - root_half);
  const Words<T> digits = (shifted & splat_word<T>((Word(1) << F::mantissa) - 1)) + splat_word<T>(root_half);
  const Vec<T> f = from_words<T>(digits) - one;
  const Vec<T> biased = from_words<T>((shifted >> F::mantissa) | splat_word<T>(bits_as<Word>(F::magic)));
  const Vec<T> k = biased - splat(F::magic + static_cast<T>(F::bias));
  const Vec<T> s = f / (splat(T(2)) + f), s_sq = s * s, half_sq = splat(T(0.5)) * f * f;
  const Vec<T> rest = s * fma(s_sq, polynomial(s_sq, L::series), half_sq) + fma(k, splat(L::ln2_low), lost);
  const Vec<T> inside = fma(k, splat(L::ln2_high), f - (half_sq - rest));
  const Vec<T> infinity = splat(std::numeric_limits<T>::infinity());
  const Vec<T> outside = select(x == -one, -infinity, select(x == infinity, x, splat(std::numeric_limits<T>::quiet_NaN())));
  return select((x > -one) & (x < infinity), inside, outside);
}

template <typename T>
struct Sine;
template <>
struct Sine<float> {
  static constexpr float farthest = 1048576.f, per_quarter = 0x1.45f306p-1f;
  static constexpr float quarter[] = {-0x1.921fb6p+0f, 0x1.777a5cp-25f};  // -pi / 2 in two pieces
  static constexpr float sine[] = {-1.6666664e-01f, 8.332649e-03f, -1.9567357e-04f};
  static constexpr float cosine[] = {4.1666664e-02f, -1.3888204e-03f, 2.4527362e-05f};
};
template <>
struct Sine<double> {
  static constexpr double farthest = 1048576., per_quarter = 0x1.45f306dc9c883p-1;
  static constexpr double quarter[] = {-0x1.921fb544p+0, -0x1.0b4611a6p-34, -0x1.3198a2e037073p-69};  // 33 bits, 33, rest
  static constexpr double sine[] = {-0.16666666666666666, 0.008333333333330946,    -0.0001984126983675497,
                                    2.755731610068303e-06, -2.5051131455427946e-08, 1.591810123027412e-10};
  static constexpr double cosine[] = {0.041666666666666664,    -0.0013888888888887395, 2.4801587298763433e-05,
                                      -2.7557317270560326e-07, 2.0876146024689747e-09, -1.1382614868556325e-11};
};

// x - n pi / 2 with the nearest n (Cody and Waite), for |x| up to Sine::farthest. quadrant: n in the low bits.
MR_INLINE Vec<double> reduced_angle(Vec<double> x, Words<double>* quadrant) {
  using S = Sine<double>;
  const Vec<double> magic = splat(Format<double>::magic);
  const Vec<double> shifted = fma(x, splat(S::per_quarter), magic), n = shifted - magic;
  *quadrant = words_of(shifted);
  // |n| < 2^20 and pieces of 33 bits: the first two products are exact without fused operations
  const Vec<double> r = fma(n, splat(S::quarter[1]), fma(n, splat(S::quarter[0]), x));
  return fma(n, splat(S::quarter[2]), r);
}

MR_INLINE Vec<float> reduced_angle(Vec<float> x, Words<float>* quadrant) {
#if MR_VECTOR_BYTES > 16
  using S = Sine<float>;
  const Vec<float> magic = splat(Format<float>::magic);
  const Vec<float> shifted = fma(x, splat(S::per_quarter), magic), n = shifted - magic;
  *quadrant = words_of(shifted);
  // one rounding each: the first difference is exact, the second piece leaves an error of |n| 2^-50
  return fma(n, splat(S::quarter[1]), fma(n, splat(S::quarter[0]), x));
#else
  // in double, where n times 33 bits of pi / 2 is exact
  float lane[kLanes<float>], n[kLanes<float>];
  store(lane, x);
  for (int i = 0; i < kLanes<float>; ++i) {
    const double wide = lane[i];
    const double nearest = (wide * Sine<double>::per_quarter + Format<double>::magic) - Format<double>::magic;
    lane[i] = static_cast<float>((wide + nearest * Sine<double>::quarter[0]) + nearest * Sine<double>::quarter[1]);
    n[i] = static_cast<float>(nearest);
  }
  *quadrant = words_of(load(n) + splat(Format<float>::magic));
  return load(lane);
#endif
}

// What sin_cos leaves to the standard library: lanes beyond Sine::farthest, infinities and NaN.
template <typename T>
MR_NOINLINE void sin_cos_far(const T* x, T* s, T* c) {
  for (int i = 0; i < kLanes<T>; ++i) {
    if (!(std::abs(x[i]) <= Sine<T>::farthest)) {
      s[i] = std::sin(x[i]);
      c[i] = std::cos(x[i]);
    }
  }
}

// Sine and cosine from the reduced angle r of x; lanes beyond Sine::farthest from x itself unless all are known to be near.
template <typename T>
MR_INLINE void sin_cos_reduced(Vec<T> x, Vec<T> r, Words<T> quadrant, bool near, Vec<T>* s, Vec<T>* c) {
  using S = Sine<T>;
  const Vec<T> r_sq = r * r;
  const Vec<T> sine = fma(r * r_sq, polynomial(r_sq, S::sine), r);
  const Vec<T> cosine = fma(r_sq * r_sq, polynomial(r_sq, S::cosine), fma(r_sq, splat(T(-0.5)), splat(T(1))));
  const Mask<T> swapped = odd<T>(quadrant);
  const Words<T> lower_half = quadrant << (static_cast<int>(8 * sizeof(T)) - 2);  // bit 1 of the quadrant is the sign
  *s = flip_sign(select(swapped, cosine, sine), lower_half);
  *c = flip_sign(select(swapped, sine, cosine), lower_half + splat_word<T>(Format<T>::sign / 2));
  if (near || all(vabs(x) <= splat(S::farthest))) return;
  T at[kLanes<T>], sines[kLanes<T>], cosines[kLanes<T>];
  store(at, x);
  store(sines, *s);
  store(cosines, *c);
  sin_cos_far(at, sines, cosines);
  *s = load(sines);
  *c = load(cosines);
}

// Sine and cosine of every number to 1e-7 (float) and 3e-16 (double), absolute. near: the caller knows that every lane is
// within Sine::farthest; what lies beyond gives nonsense then.
template <typename T>
MR_INLINE void sin_cos(Vec<T> x, Vec<T>* s, Vec<T>* c, bool near = false) {
  Words<T> quadrant;
  const Vec<T> r = reduced_angle(x, &quadrant);
  sin_cos_reduced(x, r, quadrant, near, s, c);
}

// Sine and cosine of x + rest, as exact. rest: a few hundredths at most, such as what x lost when it was rounded; neglected
// where |x| is beyond Sine::farthest.
template <typename T>
MR_INLINE void sin_cos_of_sum(Vec<T> x, Vec<T> rest, Vec<T>* s, Vec<T>* c) {
  Words<T> quadrant;
  const Vec<T> r = reduced_angle(x, &quadrant) + rest;
  sin_cos_reduced(x, r, quadrant, false, s, c);
}

// SPDX-License-Identifier: Apache-2.0
// Samples to rows of the integrated positional encoding (mip-NeRF eq. 14), [sines | cosines], each degree by degree. Included
// once per instruction set, after vector.inl.h and gemm.inl.h.

// Gaussians of the rows of a tile, an array each of the mean's and the variance's three axes. A float mean has a second
// part, what rounding took from it: 2^15 times as large it would be a wrong angle.
template <typename T>
struct Gaussians {
  T *mean[3], *rest[3], *var[3];
};

// Damping below this exponent cannot be seen beside 1 in T.
template <typename T>
constexpr T kFaded = sizeof(T) == 4 ? T(-17) : T(-37.5);

// Rows of one ray: sample[i] of the ray for each row i. Moments are formed in double.
template <typename T>
void place_gaussians(const T* t, const T* origin, const T* direction, T radius, const int32_t* sample, int64_t rows,
                     double* moments, int64_t samples, const Gaussians<T>& g, int64_t first) {
  double d[3], across[3], *t_mean = moments, *t_var = moments + samples, *r_var = moments + 2 * samples;
  for (int j = 0; j < 3; ++j) d[j] = direction[j];
  across_ray(d, across);
  const double radius_sq = static_cast<double>(radius) * radius;
  for (int64_t i = 0; i < samples; ++i) {
    const auto m = frustum_moments<double>(t[i], t[i + 1]);
    t_mean[i] = m.t_mean;
    t_var[i] = m.t_var;
    r_var[i] = radius_sq * m.r_var_unit;
  }
  for (int j = 0; j < 3; ++j) {
    T *mean = g.mean[j] + first, *rest = g.rest[j] + first, *var = g.var[j] + first;
    const double o = origin[j], dj = d[j], dj_sq = d[j] * d[j], share = across[j];
    for (int64_t i = 0; i < rows; ++i) {
      const double exact = o + dj * t_mean[sample[i]];
      mean[i] = static_cast<T>(exact);
      rest[i] = static_cast<T>(exact - static_cast<double>(mean[i]));
      var[i] = static_cast<T>(t_var[sample[i]] * dj_sq + r_var[sample[i]] * share);
    }
  }
}

// x, y, z, x, y, z, ... from lane `start` of that sequence on.
template <typename T>
struct Cycle {
  Mask<T> first, second;

  MR_INLINE explicit Cycle(int start) {
    T phase[kLanes<T>];
    for (int i = 0; i < kLanes<T>; ++i) phase[i] = static_cast<T>((start + i) % 3);
    first = load(phase) == splat(T(0));
    second = load(phase) == splat(T(1));
  }
  MR_INLINE Vec<T> of(T x, T y, T z) const { return select(first, splat(x), select(second, splat(y), splat(z))); }
};

// Frequencies of the columns of each half, and -1/2 times their squares; 0 beyond the last octave.
template <typename T>
struct Octaves {
  const T *scale, *fading;
};

// The first part of each row's encoding, `used` columns of each half, so that what is left out has faded in every row of the
// block. x [rows, 2 * half], the cosines from column `half` on.
template <typename T>
void encode_rows(const FieldPlan& plan, const Gaussians<T>& g, int64_t rows, const Octaves<T>& octaves, int32_t* used, T* x) {
  const Cycle<T> cycle[3] = {Cycle<T>(0), Cycle<T>(kLanes<T> % 3), Cycle<T>(2 * kLanes<T> % 3)};
  for (int64_t block = 0; block < rows; block += kBlock) {
    const int64_t end = block + kBlock < rows ? block + kBlock : rows;
    T least = g.var[0][block];
    for (int j = 0; j < 3; ++j) {
      for (int64_t i = block; i < end; ++i) least = g.var[j][i] < least ? g.var[j][i] : least;
    }
    int64_t degrees = 1;  // one at least: NaN must show
    while (degrees < plan.shape.degrees && !(octaves.fading[3 * degrees] * least < kFaded<T>)) ++degrees;
    used[block / kBlock] = static_cast<int32_t>(3 * degrees);
    // Whole vectors, and whole blocks of columns: add_outer takes these together.
    const int64_t wanted = round_up(round_up(3 * degrees, kBlock), kLanes<T>);
    const int64_t columns = wanted < plan.half ? wanted : plan.half;

    for (int64_t i = block; i < end; ++i) {
      T *sines = x + i * 2 * plan.half, *cosines = sines + plan.half;
      Vec<T> mean[3], rest[3], var[3];
      for (int p = 0; p < 3; ++p) {
        mean[p] = cycle[p].of(g.mean[0][i], g.mean[1][i], g.mean[2][i]);
        rest[p] = cycle[p].of(g.rest[0][i], g.rest[1][i], g.rest[2][i]);
        var[p] = cycle[p].of(g.var[0][i], g.var[1][i], g.var[2][i]);
      }
      for (int64_t column = 0; column < columns;) {
        for (int p = 0; p < 3 && column < columns; ++p, column += kLanes<T>) {
          const Vec<T> exponent = load(octaves.fading + column) * var[p];
          Vec<T> s = splat(T(0)), c = s;
          if (column == 0 || any(!(exponent < splat(kFaded<T>)))) {
            const Vec<T> scale = load(octaves.scale + column), damping = vexp(exponent);
            sin_cos_of_sum(scale * mean[p], scale * rest[p], &s, &c);
            s = damping * s;
            c = damping * c;
          }
          store(sines + column, s);
          store(cosines + column, c);
        }
      }
    }
  }
}

// The left factor of the first layer.
template <typename T>
struct Encoded {
  const T* x;
  int64_t half, octaves;  // columns of a half in x, in the matrix
  const int32_t* used;

  template <int V>
  MR_INLINE void add(int64_t row, const T* panel, Vec<T> (&sums)[kBlock][V]) const {
    const T* a = x + row * 2 * half;
    const int64_t n = used[row / kBlock], step = V * kLanes<T>;
    add_products<kBlock, V>(a, 2 * half, 1, panel, step, n, sums);
    add_products<kBlock, V>(a + half, 2 * half, 1, panel + octaves * step, step, n, sums);
  }
};

// SPDX-License-Identifier: Apache-2.0
// composite and its adjoint for dense rays, a ray in each lane: no sums across lanes, no lanes idle at a ray's end. Rows of
// the arrays become columns in blocks that stay in the first cache. The formulas are those of core/composite.h.

// Numbers of as many rays as there are lanes: a row each, `stride` apart.
template <typename P>
struct Rows {
  P first;
  int64_t stride;
};

// Those of rays `first`, `first` + 1, ... in an array of so many numbers a ray.
template <typename P>
MR_INLINE Rows<P> rows_of(P all, int64_t first, int64_t numbers) {
  return {all + first * numbers, numbers};
}

// to[j] has number at + j of every ray, for j < width.
template <typename T>
MR_INLINE void columns_of(const Rows<const T*>& rows, int64_t at, int width, T* to) {
  constexpr int n = kLanes<T>, part = kPart<T>;
  const T* from = rows.first + at;
  int j = 0;
  for (; j + part <= width; j += part) {
    Vec<T> x[part];
    for (int i = 0; i < part; ++i) x[i] = load_parts(from + j + i * rows.stride, part * rows.stride);
    transpose_parts(x);
    for (int i = 0; i < part; ++i) store(to + n * (j + i), x[i]);
  }
  for (; j < width; ++j) {
    const T* row = from + j;
    MR_UNROLL
    for (int i = 0; i < n; ++i, row += rows.stride) to[n * j + i] = *row;
  }
}

// The way back: number at + j of every ray from from[j].
template <typename T>
MR_INLINE void rows_from(const T* from, const Rows<T*>& rows, int64_t at, int width) {
  constexpr int n = kLanes<T>, part = kPart<T>;
  T* to = rows.first + at;
  int j = 0;
  for (; j + part <= width; j += part) {
    Vec<T> x[part];
    for (int i = 0; i < part; ++i) x[i] = load(from + n * (j + i));
    transpose_parts(x);
    for (int i = 0; i < part; ++i) store_parts(to + j + i * rows.stride, part * rows.stride, x[i]);
  }
  for (; j < width; ++j) {
    T* row = to + j;
    MR_UNROLL
    for (int i = 0; i < n; ++i, row += rows.stride) *row = from[n * j + i];
  }
}

// A vector each of x, y and z, of rows of three numbers.
template <typename T>
struct Triples {
  Vec<T> x, y, z;

  MR_INLINE Triples(Vec<T> x_, Vec<T> y_, Vec<T> z_) : x(x_), y(y_), z(z_) {}

  // stride: 3, or 0 where all rays have the same
  MR_INLINE Triples(const T* rays, int64_t stride) {
    constexpr int n = kLanes<T>;
    if (stride == 0) {
      *this = Triples(splat(rays[0]), splat(rays[1]), splat(rays[2]));
      return;
    }
    alignas(kVectorBytes) T part[3 * n];
    columns_of(Rows<const T*>{rays, stride}, 0, 3, part);
    *this = Triples(load(part), load(part + n), load(part + 2 * n));
  }

  MR_INLINE void keep(T* rays) const {
    constexpr int n = kLanes<T>;
    alignas(kVectorBytes) T part[3 * n];
    store(part, x);
    store(part + n, y);
    store(part + 2 * n, z);
    rows_from(part, Rows<T*>{rays, 3}, 0, 3);
  }

  MR_INLINE Triples scaled_by(Vec<T> factor) const { return {x * factor, y * factor, z * factor}; }
};

// Lengths of directions, also where their squares are no numbers.
template <typename T>
MR_INLINE Vec<T> lengths_of(const Triples<T>& d, const T* directions) {
  const Vec<T> square = fma(d.x, d.x, fma(d.y, d.y, d.z * d.z));
  const T small = std::numeric_limits<T>::min() * T(1e8);  // beyond it, or its inverse, squares lose digits
  if (all(square > splat(small)) && all(square < splat(1 / small))) return vsqrt(square);
  T length[kLanes<T>];
  for (int i = 0; i < kLanes<T>; ++i) length[i] = length_of(directions + 3 * i);
  return load(length);
}

// The way of light through kLanes rays from `first` on.
template <typename T>
MR_NOINLINE void forward_lanes(const Rays<T>& rays, const Pixels<T*>& out, int64_t first) {
  constexpr int n = kLanes<T>;
  const Vec<T> zero = splat(T(0));
  const int64_t samples = rays.intervals;
  const Vec<T> norm = lengths_of(Triples<T>(rays.directions + 3 * first, 3), rays.directions + 3 * first);
  const auto fences = rows_of(rays.t0, first, samples + 1), densities = rows_of(rays.density, first, samples),
             colours = rows_of(rays.rgb, first, 3 * samples);
  const auto of_weights = rows_of(out.weights, first, samples);
  alignas(kVectorBytes) T fence[n * n], density[n * n], rgb[3 * n * n], weights[n * n];
  columns_of(fences, 0, 1, fence);
  const Vec<T> octaves = norm * splat(-Exponential<T>::per_ln2);  // light halves so often per density and t
  Vec<T> t0 = load(fence), light = splat(T(1)), opacity = zero, reach = zero, red = zero, green = zero, blue = zero;
  for (int64_t at = 0; at < samples; at += n) {
    const int width = static_cast<int>(std::min<int64_t>(n, samples - at));
    columns_of(fences, at + 1, width, fence);
    columns_of(densities, at, width, density);
    columns_of(colours, 3 * at, 3 * width, rgb);
    for (int j = 0; j < width; ++j) {
      const Vec<T> t1 = load(fence + n * j);
      Vec<T> through, held;
      power_and_rest(load(density + n * j) * ((t1 - t0) * octaves), &through, &held);
      const Vec<T> weight = held * light;
      light = light * through;
      opacity += weight;
      reach = fma(weight, t0 + t1, reach);
      red = fma(weight, load(rgb + 3 * n * j), red);
      green = fma(weight, load(rgb + 3 * n * j + n), green);
      blue = fma(weight, load(rgb + 3 * n * j + 2 * n), blue);
      store(weights + n * j, weight);
      t0 = t1;
    }
    rows_from(weights, of_weights, at, width);
  }
  store(out.opacity + first, opacity);
  store(out.depth + first, select(opacity == zero, zero, splat(T(0.5)) * reach / opacity));
  const Triples<T> behind(rays.behind(first), rays.background_stride);
  Triples<T>(fma(light, behind.x, red), fma(light, behind.y, green), fma(light, behind.z, blue)).keep(out.rgb + 3 * first);
}

// The light that leaves each ray.
template <typename T>
MR_INLINE Vec<T> last_lights(const Rays<T>& rays, int64_t first, Vec<T> norms) {
  constexpr int n = kLanes<T>;
  T depths[n];
  for (int i = 0; i < n; ++i) {
    const RaySamples<T> ray = rays.ray(first + i);
    Vec<T> depth = splat(T(0));
    for (int64_t at = 0; at < ray.count; at += n) {
      const int64_t left = ray.count - at;
      const Vec<T> extent = load_some(ray.t1 + at, left) - load_some(ray.t0 + at, left);
      depth = fma(load_some(ray.density + at, left), extent, depth);
    }
    depths[i] = sum(depth);
  }
  return vexp(splat(T(0)) - load(depths) * norms);
}

template <typename T>
MR_NOINLINE void backward_lanes(const Rays<T>& rays, const Pixels<const T*>& grad, const Pixels<const T*>& made,
                                const RayGradients<T>& out, int64_t first) {
  constexpr int n = kLanes<T>;
  const Vec<T> zero = splat(T(0)), half = splat(T(0.5));
  const int64_t samples = rays.intervals;
  const Triples<T> direction(rays.directions + 3 * first, 3);
  const Vec<T> norm = lengths_of(direction, rays.directions + 3 * first), last = last_lights(rays, first, norm);

  // as RayCotangent
  const Triples<T> ct(grad.rgb + 3 * first, 3), behind_rays(rays.behind(first), rays.background_stride);
  const Vec<T> opacity = load(made.opacity + first), depth = load(made.depth + first);
  const Vec<T> reach = select(opacity > zero, load(grad.depth + first) / opacity, zero), half_reach = half * reach;
  const Vec<T> same = load(grad.opacity + first) - ct.x * behind_rays.x - ct.y * behind_rays.y - ct.z * behind_rays.z;
  const Vec<T> shared = same * last;

  const auto fences = rows_of(rays.t0, first, samples + 1), densities = rows_of(rays.density, first, samples),
             colours = rows_of(rays.rgb, first, 3 * samples), weighted = rows_of(made.weights, first, samples),
             wanted = rows_of(grad.weights, first, samples);
  const auto of_fences = rows_of(out.t0, first, samples + 1), of_densities = rows_of(out.density, first, samples),
             of_colours = rows_of(out.rgb, first, 3 * samples);
  // Each place is read before it gets the gradient.
  alignas(kVectorBytes) T fence[n * n], density[n * n], rgb[3 * n * n], weights[n * n], wish[n * n];
  columns_of(fences, samples, 1, fence);
  Vec<T> t1 = load(fence), after = last, behind = zero;  // light that leaves the interval, sum of G w of those behind it
  Vec<T> next = zero, stretch = zero;  // gradient of the next t0; of the direction's length
  for (int64_t at = (samples - 1) / n * n; at >= 0 && samples > 0; at -= n) {
    const int width = static_cast<int>(std::min<int64_t>(n, samples - at));
    columns_of(fences, at, width, fence);
    columns_of(densities, at, width, density);
    columns_of(colours, 3 * at, 3 * width, rgb);
    columns_of(weighted, at, width, weights);
    columns_of(wanted, at, width, wish);
    for (int j = width - 1; j >= 0; --j) {
      T* colour = rgb + 3 * n * j;
      const Vec<T> t0 = load(fence + n * j), dense = load(density + n * j), weight = load(weights + n * j);
      const Vec<T> of_weight = load(wish + n * j) + fma(half, t0 + t1, zero - depth) * reach +
                               fma(ct.x, load(colour), fma(ct.y, load(colour + n), ct.z * load(colour + 2 * n)));
      const Vec<T> of_optical = fma(of_weight, after, shared - behind);
      behind = fma(of_weight, weight, behind);
      after = after + weight;
      const Vec<T> extent = t1 - t0, of_length = of_optical * dense, moved = half_reach * weight;
      stretch = fma(of_length, extent, stretch);
      store(density + n * j, of_optical * (extent * norm));
      store(fence + n * j, fma(of_length, norm, moved) + next);
      next = moved - of_length * norm;
      store(colour, weight * ct.x);
      store(colour + n, weight * ct.y);
      store(colour + 2 * n, weight * ct.z);
      t1 = t0;
    }
    rows_from(fence, of_fences, at + 1, width);
    rows_from(density, of_densities, at, width);
    rows_from(rgb, of_colours, 3 * at, 3 * width);
  }
  store(fence, next);
  rows_from(fence, of_fences, 0, 1);
  direction.scaled_by(select(norm == zero, zero, stretch / norm)).keep(out.directions + 3 * first);
  ct.scaled_by(last).keep(out.background + 3 * first);
}

// Dense rays in groups of kLanes (the last may be smaller): groups begin .. end of them.
template <typename T>
void forward_groups(const Rays<T>& rays, const Pixels<T*>& out, int64_t begin, int64_t end) {
  constexpr int n = kLanes<T>;
  for (int64_t first = begin * n; first < std::min(end * n, rays.rays); first += n) {
    if (first + n <= rays.rays) {
      forward_lanes(rays, out, first);
    } else {
      forward(rays, out, first, rays.rays);
    }
  }
}

template <typename T>
void backward_groups(const Rays<T>& rays, const Pixels<const T*>& grad, const Pixels<const T*>& made,
                     const RayGradients<T>& out, int64_t begin, int64_t end) {
  constexpr int n = kLanes<T>;
  for (int64_t first = begin * n; first < std::min(end * n, rays.rays); first += n) {
    if (first + n <= rays.rays) {
      backward_lanes(rays, grad, made, out, first);
    } else {
      backward(rays, grad, made, out, first, rays.rays);
    }
  }
}

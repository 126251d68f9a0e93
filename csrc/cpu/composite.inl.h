// SPDX-License-Identifier: Apache-2.0
// composite and its adjoint for a range of rays, sixteen floats or as many as the instruction set has at a time, along the ray;
// the formulas are those of core/composite.h.
#include "vector_shuffle.inl.h"

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

// Some intervals of a ray. Those behind its end have no length, no density and no colour.
template <typename T>
struct Intervals {
  Vec<T> ends;  // t0 + t1
  Vec<T> extent, length, density, weight, after;

  MR_INLINE void read(const RaySamples<T>& ray, int64_t at, Vec<T> norm) {
    const Vec<T> t0 = load_some(ray.t0 + at, ray.count - at), t1 = load_some(ray.t1 + at, ray.count - at);
    ends = t0 + t1;
    extent = t1 - t0;
    length = extent * norm;
    density = load_some(ray.density + at, ray.count - at);
  }

  // `before`: optical depth of all intervals before these; that of these is added.
  MR_INLINE void light(Vec<T>* before, Vec<T> stop) {
    const Vec<T> zero = splat(T(0)), optical = density * length, depths = running_sum(optical);
    const Vec<T> alpha = zero - vexpm1(zero - optical);
    const Vec<T> through = vexp(zero - (*before + shifted_up(depths, zero)));
    const Mask<T> stopped = through < stop;
    weight = select(stopped, zero, alpha * through);
    after = select(stopped, zero, (splat(T(1)) - alpha) * through);
    *before = *before + last_everywhere(depths);
  }
};

template <typename T>
MR_INLINE void read_colours(const RaySamples<T>& ray, int64_t at, Vec<T> rgb[3]) {
  for (int k = 0; k < 3; ++k) {
    const int64_t from = 3 * at + k * kLanes<T>;
    rgb[k] = load_some(ray.rgb + from, 3 * ray.count - from);
  }
}

template <typename T>
void forward(const Rays<T>& rays, const Pixels<T*>& out, int64_t begin, int64_t end) {
  const Vec<T> zero = splat(T(0)), stop = splat(rays.stop);
  for (int64_t r = begin; r < end; ++r) {
    const RaySamples<T> ray = rays.ray(r);
    const Vec<T> norm = splat(length_of(rays.directions + 3 * r));
    Vec<T> before = zero, opacity = zero, reach = zero, mixed[3] = {zero, zero, zero};
    for (int64_t at = 0; at < ray.count; at += kLanes<T>) {
      Intervals<T> some;
      some.read(ray, at, norm);
      some.light(&before, stop);
      store_some(out.weights + ray.first + at, some.weight, ray.count - at);
      opacity += some.weight;
      reach = fma(some.weight, some.ends, reach);
      Vec<T> rgb[3], weights[3];
      read_colours(ray, at, rgb);
      thrice(some.weight, weights);
      for (int k = 0; k < 3; ++k) mixed[k] = fma(weights[k], rgb[k], mixed[k]);
    }
    const T seen = sum(opacity), colour[3] = {sum(part_of_triples<T, 0>(mixed)), sum(part_of_triples<T, 1>(mixed)),
                                              sum(part_of_triples<T, 2>(mixed))};
    out.opacity[r] = seen;
    out.depth[r] = seen > T(0) ? T(0.5) * sum(reach) / seen : T(0);
    for (int c = 0; c < 3; ++c) out.rgb[3 * r + c] = colour[c] + (T(1) - seen) * rays.background[3 * r + c];
  }
}

// work: room for two numbers per sample of the ray with most of them, each rounded up to whole vectors.
template <typename T>
void backward(const Rays<T>& rays, const Pixels<const T*>& grad, const RayGradients<T>& out, int64_t begin, int64_t end,
              T* work) {
  const Vec<T> zero = splat(T(0)), half = splat(T(0.5)), stop = splat(rays.stop);
  const bool fence = rays.offsets == nullptr;
  for (int64_t r = begin; r < end; ++r) {
    const RaySamples<T> ray = rays.ray(r);
    const T* direction = rays.directions + 3 * r;
    const T norm_of_ray = length_of(direction);
    const Vec<T> norm = splat(norm_of_ray);

    Vec<T> before = zero, opacity_sum = zero, reach_sum = zero;
    for (int64_t at = 0; at < ray.count; at += kLanes<T>) {
      Intervals<T> some;
      some.read(ray, at, norm);
      some.light(&before, stop);
      store(work + 2 * at, some.weight);
      store(work + 2 * at + kLanes<T>, some.after);
      opacity_sum += some.weight;
      reach_sum = fma(some.weight, some.ends, reach_sum);
    }
    const T opacity = sum(opacity_sum);
    const RayCotangent<T> ct(grad.rgb + 3 * r, grad.depth[r], grad.opacity[r], rays.background + 3 * r, opacity,
                             sum(reach_sum));

    const Vec<T> red = splat(ct.rgb[0]), green = splat(ct.rgb[1]), blue = splat(ct.rgb[2]), same = splat(ct.same);
    const Vec<T> depth = splat(ct.depth), reach = splat(ct.reach), half_reach = splat(T(0.5) * ct.reach);
    Vec<T> pattern[3];
    interleaved(red, green, blue, pattern);
    Vec<T> behind = zero, next = zero, stretch = zero;  // sum of G w of later intervals; gradient of the next t0; of the norm
    for (int64_t at = (ray.count - 1) / kLanes<T> * kLanes<T>; at >= 0 && ray.count > 0; at -= kLanes<T>) {
      const int64_t left = ray.count - at, first = ray.first + at;
      Intervals<T> some;
      some.read(ray, at, norm);
      some.weight = load(work + 2 * at);
      some.after = load(work + 2 * at + kLanes<T>);
      Vec<T> rgb[3], weights[3];
      read_colours(ray, at, rgb);
      const Vec<T> g = load_some(grad.weights + first, left) + same + fma(half, some.ends, zero - depth) * reach +
                       fma(red, part_of_triples<T, 0>(rgb),
                           fma(green, part_of_triples<T, 1>(rgb), blue * part_of_triples<T, 2>(rgb)));
      Vec<T> share = g * some.weight;
      if (left < kLanes<T>) share = select(iota<T>() < splat(static_cast<T>(left)), share, zero);
      const Vec<T> remaining = remaining_sum(share);
      const Vec<T> grad_optical = g * some.after - (behind + shifted_down(remaining, zero));
      behind = behind + first_everywhere(remaining);
      store_some(out.density + first, grad_optical * some.length, left);

      const Vec<T> grad_length = grad_optical * some.density, moved = half_reach * some.weight;
      stretch = fma(grad_length, some.extent, stretch);
      const Vec<T> grad_t0 = moved - grad_length * norm, grad_t1 = moved + grad_length * norm;
      if (fence) {
        store_some(out.t0 + first + r + 1, grad_t1 + shifted_down(grad_t0, next), left);
        next = grad_t0;
      } else {
        store_some(out.t0 + first, grad_t0, left);
        store_some(out.t1 + first, grad_t1, left);
      }
      thrice(some.weight, weights);
      for (int k = 0; k < 3; ++k) {
        const int64_t to = k * kLanes<T>;
        store_some(out.rgb + 3 * first + to, weights[k] * pattern[k], 3 * left - to);
      }
    }
    if (fence) store_part(out.t0 + ray.first + r, next, 1);
    const T pull = norm_of_ray == T(0) ? T(0) : sum(stretch) / norm_of_ray;
    for (int c = 0; c < 3; ++c) {
      out.directions[3 * r + c] = pull * direction[c];
      out.background[3 * r + c] = (T(1) - opacity) * ct.rgb[c];
    }
  }
}

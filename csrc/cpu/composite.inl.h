// SPDX-License-Identifier: Apache-2.0
// composite and its adjoint for a range of rays, sixteen floats or as many as the instruction set has at a time, along the ray;
// the formulas are those of core/composite.h.
#include "vector_shuffle.inl.h"

// Some intervals of a ray. Those behind its end have no length, no density and no colour.
template <typename T>
struct Intervals {
  Vec<T> ends;  // t0 + t1
  Vec<T> extent, length, density, optical;

  MR_INLINE Intervals(const RaySamples<T>& ray, int64_t at, Vec<T> norm) {
    const Vec<T> t0 = load_some(ray.t0 + at, ray.count - at), t1 = load_some(ray.t1 + at, ray.count - at);
    ends = t0 + t1;
    extent = t1 - t0;
    length = extent * norm;
    density = load_some(ray.density + at, ray.count - at);
    optical = density * length;
  }
};

// What reaches some intervals; `before`, the optical depth of all intervals before them, grows by theirs.
template <typename T>
MR_INLINE Vec<T> light_at(Vec<T> optical, Vec<T>* before) {
  const Vec<T> zero = splat(T(0)), depths = running_sum(optical);
  const Vec<T> light = vexp(zero - (*before + shifted_up(depths, zero)));
  *before = *before + last_everywhere(depths);
  return light;
}

// 1 - exp(-optical)
template <typename T>
MR_INLINE Vec<T> opacity_of(Vec<T> optical) {
  const Vec<T> zero = splat(T(0)), one = splat(T(1));
  if (any(optical < zero)) return zero - vexpm1(zero - optical);
  // a power of two of at most 1 cannot overflow, which vexpm1 has to take care of
  Vec<T> n;
  const Vec<T> e = reduced_exponential(vmax(splat(Exponential<T>::lost), zero - optical), &n), power = power_of_two_of(n);
  return fma(zero - e, power, one - power);
}

// How many samples of a ray weigh anything at all, as far as `stop` is concerned, and the light that leaves the last of them.
template <typename T>
MR_INLINE int64_t last_light(const RaySamples<T>& ray, Vec<T> norm, T stop, T* light) {
  const Vec<T> zero = splat(T(0));
  Vec<T> total = zero, before = zero;
  int64_t active = 0;
  for (int64_t at = 0; at < ray.count; at += kLanes<T>) {
    const Intervals<T> some(ray, at, norm);
    if (stop > T(0)) {
      const Mask<T> stopped = light_at(some.optical, &before) < splat(stop);
      const int kept = static_cast<int>(sum(select(stopped, zero, splat(T(1)))));
      total += select(stopped, zero, some.optical);
      active = std::min(at + kept, ray.count);
      if (kept < kLanes<T>) break;
    } else {
      total += some.optical;
      active = std::min(at + kLanes<T>, ray.count);
    }
  }
  *light = std::exp(-sum(total));
  return active;
}

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
    Vec<T> dark = zero;  // the light that reaches those intervals which `stop` leaves out
    Vec<T> before = zero, opacity = zero, reach = zero, mixed[3] = {zero, zero, zero};
    for (int64_t at = 0; at < ray.count; at += kLanes<T>) {
      const Intervals<T> some(ray, at, norm);
      const Vec<T> light = light_at(some.optical, &before);
      const Mask<T> stopped = light < stop;
      const Vec<T> weight = select(stopped, zero, opacity_of(some.optical) * light);
      dark = select(stopped, vmax(dark, light), dark);
      store_some(out.weights + ray.first + at, weight, ray.count - at);
      opacity += weight;
      reach = fma(weight, some.ends, reach);
      Vec<T> rgb[3], weights[3];
      read_colours(ray, at, rgb);
      thrice(weight, weights);
      for (int k = 0; k < 3; ++k) mixed[k] = fma(weights[k], rgb[k], mixed[k]);
    }
    const T seen = sum(opacity), colour[3] = {sum(part_of_triples<T, 0>(mixed)), sum(part_of_triples<T, 1>(mixed)),
                                              sum(part_of_triples<T, 2>(mixed))};
    out.opacity[r] = seen;
    out.depth[r] = seen > T(0) ? T(0.5) * sum(reach) / seen : T(0);
    const T left = first(vmax(rays.stop > T(0) ? splat(largest(dark)) : zero, vexp(zero - before)));
    for (int c = 0; c < 3; ++c) out.rgb[3 * r + c] = colour[c] + left * rays.behind(r)[c];
  }
}

// Zeros for the samples of a ray from `at` on, which no light reaches.
template <typename T>
void without_gradient(const RaySamples<T>& ray, const RayGradients<T>& out, int64_t at) {
  const int64_t from = ray.first + at, to = ray.first + ray.count;
  std::fill(out.rgb + 3 * from, out.rgb + 3 * to, T(0));
  std::fill(out.density + from, out.density + to, T(0));
  std::fill(out.t0 + from, out.t0 + to, T(0));
  std::fill(out.t1 + from, out.t1 + to, T(0));
}

template <typename T>
void backward(const Rays<T>& rays, const Pixels<const T*>& grad, const Pixels<const T*>& made, const RayGradients<T>& out,
              int64_t begin, int64_t end) {
  const Vec<T> zero = splat(T(0)), half = splat(T(0.5));
  const bool fence = rays.offsets == nullptr;
  for (int64_t r = begin; r < end; ++r) {
    RaySamples<T> ray = rays.ray(r);
    const T* direction = rays.directions + 3 * r;
    const T norm_of_ray = length_of(direction);
    const Vec<T> norm = splat(norm_of_ray);
    T last;
    const int64_t active = last_light(ray, norm, rays.stop, &last);
    if (active < ray.count) {  // packed rays only: others have no `stop`
      without_gradient(ray, out, active);
      ray.count = active;
    }

    const RayCotangent<T> ct(r, grad, made, rays.behind(r));
    const Vec<T> red = splat(ct.rgb[0]), green = splat(ct.rgb[1]), blue = splat(ct.rgb[2]), shared = splat(ct.same * last);
    const Vec<T> depth = splat(ct.depth), reach = splat(ct.reach), half_reach = splat(T(0.5) * ct.reach);
    Vec<T> pattern[3];
    interleaved(red, green, blue, pattern);
    Vec<T> left_by = splat(last), behind = zero;  // light that leaves these intervals, sum of G w of those behind them
    Vec<T> next = zero, stretch = zero;           // gradient of the next t0; of the direction's length
    for (int64_t at = (ray.count - 1) / kLanes<T> * kLanes<T>; at >= 0 && ray.count > 0; at -= kLanes<T>) {
      const int64_t left = ray.count - at, first = ray.first + at;
      const Intervals<T> some(ray, at, norm);
      const Vec<T> weight = load_some(made.weights + first, left);
      Vec<T> rgb[3], weights[3];
      read_colours(ray, at, rgb);
      const Vec<T> g = load_some(grad.weights + first, left) + fma(half, some.ends, zero - depth) * reach +
                       fma(red, part_of_triples<T, 0>(rgb),
                           fma(green, part_of_triples<T, 1>(rgb), blue * part_of_triples<T, 2>(rgb)));
      Vec<T> share = g * weight;
      if (left < kLanes<T>) share = select(iota<T>() < splat(static_cast<T>(left)), share, zero);
      const Vec<T> later = remaining_sum(share), later_weight = remaining_sum(weight);
      const Vec<T> after = left_by + shifted_down(later_weight, zero);
      const Vec<T> grad_optical = fma(g, after, shared - (behind + shifted_down(later, zero)));
      behind = behind + first_everywhere(later);
      left_by = left_by + first_everywhere(later_weight);
      store_some(out.density + first, grad_optical * some.length, left);

      const Vec<T> grad_length = grad_optical * some.density, moved = half_reach * weight;
      stretch = fma(grad_length, some.extent, stretch);
      const Vec<T> grad_t0 = moved - grad_length * norm, grad_t1 = moved + grad_length * norm;
      if (fence) {
        store_some(out.t0 + first + r + 1, grad_t1 + shifted_down(grad_t0, next), left);
        next = grad_t0;
      } else {
        store_some(out.t0 + first, grad_t0, left);
        store_some(out.t1 + first, grad_t1, left);
      }
      thrice(weight, weights);
      for (int k = 0; k < 3; ++k) {
        const int64_t to = k * kLanes<T>;
        store_some(out.rgb + 3 * first + to, weights[k] * pattern[k], 3 * left - to);
      }
    }
    if (fence) store_part(out.t0 + ray.first + r, next, 1);
    const T pull = norm_of_ray == T(0) ? T(0) : sum(stretch) / norm_of_ray;
    for (int c = 0; c < 3; ++c) {
      out.directions[3 * r + c] = pull * direction[c];
      out.background[3 * r + c] = last * ct.rgb[c];
    }
  }
}

#include "composite_lanes.inl.h"

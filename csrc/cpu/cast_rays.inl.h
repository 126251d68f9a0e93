// SPDX-License-Identifier: Apache-2.0
// Bodies of cast_rays.h for one instruction set: a vector covers neighbouring intervals of one ray. The formulas are those of
// core/frustum.h, where they are explained; lanes behind the last interval are empty frusta at the apex with no gradient.
#include "vector_shuffle.inl.h"

template <typename T>
struct Moments {
  Vec<T> mu, hw, mu_sq, hw_sq, total, q, t_mean, t_var, r_var_unit;

  MR_INLINE Moments(Vec<T> t0, Vec<T> t1) {
    const Vec<T> half = splat(T(0.5)), zero = splat(T(0));
    mu = half * (t0 + t1);
    hw = half * (t1 - t0);
    mu_sq = mu * mu;
    hw_sq = hw * hw;
    total = splat(T(3)) * mu_sq + hw_sq;
    total = select(total == zero, splat(T(1)), total);  // the empty frustum: hw_sq and so q are 0
    q = hw_sq / total;
    t_mean = mu + splat(T(2)) * mu * q;
    t_var = hw_sq / splat(T(3)) - splat(T(4.0 / 15.0)) * q * q * (splat(T(12)) * mu_sq - hw_sq);
    r_var_unit = mu_sq / splat(T(4)) + splat(T(5.0 / 12.0)) * hw_sq - splat(T(4.0 / 15.0)) * hw_sq * q;
  }
};

template <typename T>
void forward(const Cones<T>& cones, int64_t begin, int64_t end, T* mean, T* var) {
  constexpr int lanes = kLanes<T>;
  for (int64_t ray = begin; ray < end; ++ray) {
    const T *edges = cones.t + ray * (cones.intervals + 1), *o = cones.origins + 3 * ray, *d = cones.directions + 3 * ray;
    T across[3];
    across_ray(d, across);
    Vec<T> origin[3], direction[3], along[3], aside[3];
    interleaved(splat(o[0]), splat(o[1]), splat(o[2]), origin);
    interleaved(splat(d[0]), splat(d[1]), splat(d[2]), direction);
    interleaved(splat(d[0] * d[0]), splat(d[1] * d[1]), splat(d[2] * d[2]), along);
    interleaved(splat(across[0]), splat(across[1]), splat(across[2]), aside);
    const Vec<T> radius_sq = splat(cones.radii[ray] * cones.radii[ray]);
    for (int64_t i = 0; i < cones.intervals; i += lanes) {
      const int64_t count = cones.intervals - i;
      const Moments<T> m(load_some(edges + i, count), load_some(edges + i + 1, count));
      Vec<T> t_mean[3], t_var[3], r_var[3];
      thrice(m.t_mean, t_mean);
      thrice(m.t_var, t_var);
      thrice(radius_sq * m.r_var_unit, r_var);
      const int64_t at = 3 * (ray * cones.intervals + i);
      for (int k = 0; k < 3; ++k) {
        store_some(mean + at + k * lanes, fma(direction[k], t_mean[k], origin[k]), 3 * count - k * lanes);
        store_some(var + at + k * lanes, fma(along[k], t_var[k], aside[k] * r_var[k]), 3 * count - k * lanes);
      }
    }
  }
}

template <typename T>
void backward(const Cones<T>& cones, int64_t begin, int64_t end, const T* grad_mean, const T* grad_var,
              const ConeGradients<T>& out) {
  constexpr int lanes = kLanes<T>;
  const Vec<T> zero = splat(T(0)), half = splat(T(0.5)), two = splat(T(2));
  for (int64_t ray = begin; ray < end; ++ray) {
    const T *edges = cones.t + ray * (cones.intervals + 1), *d = cones.directions + 3 * ray;
    T* grad_edges = out.t + ray * (cones.intervals + 1);
    T across[3];
    const T norm_sq = across_ray(d, across), radius = cones.radii[ray];
    const bool tiny = norm_sq < smallest_direction_sq<T>();
    const T divisor = tiny ? smallest_direction_sq<T>() : norm_sq;
    const Vec<T> r_sq = splat(radius * radius);
    Vec<T> to_origin[3] = {zero, zero, zero}, to_direction[3] = {zero, zero, zero}, to_radius = zero, before = zero;
    for (int64_t i = 0; i < cones.intervals; i += lanes) {
      const int64_t count = cones.intervals - i, at = 3 * (ray * cones.intervals + i);
      const Moments<T> m(load_some(edges + i, count), load_some(edges + i + 1, count));
      Vec<T> mean_triples[3], var_triples[3];
      for (int k = 0; k < 3; ++k) {
        mean_triples[k] = load_some(grad_mean + at + k * lanes, 3 * count - k * lanes);
        var_triples[k] = load_some(grad_var + at + k * lanes, 3 * count - k * lanes);
      }
      const Vec<T> g_mean[3] = {part_of_triples<T, 0>(mean_triples), part_of_triples<T, 1>(mean_triples),
                                part_of_triples<T, 2>(mean_triples)};
      const Vec<T> g_var[3] = {part_of_triples<T, 0>(var_triples), part_of_triples<T, 1>(var_triples),
                               part_of_triples<T, 2>(var_triples)};
      Vec<T> g_t_mean = zero, g_t_var = zero, g_r_var = zero;
      for (int k = 0; k < 3; ++k) {
        g_t_mean = fma(g_mean[k], splat(d[k]), g_t_mean);
        g_t_var = fma(g_var[k], splat(d[k] * d[k]), g_t_var);
        g_r_var = fma(g_var[k], splat(across[k]), g_r_var);
      }
      const Vec<T> pull = tiny ? zero : g_t_var / splat(divisor), r_var = r_sq * m.r_var_unit;
      for (int k = 0; k < 3; ++k) {
        to_origin[k] += g_mean[k];
        to_direction[k] += g_mean[k] * m.t_mean + two * g_var[k] * m.t_var * splat(d[k]) +
                           r_var * splat(T(2) * d[k] / divisor) * (pull - g_var[k]);
      }
      to_radius += splat(T(2) * radius) * m.r_var_unit * g_r_var;

      const Vec<T> q_sq = m.q * m.q, g_r = g_r_var * r_sq;
      const Vec<T> g_q = g_t_mean * two * m.mu - g_t_var * splat(T(8.0 / 15.0)) * m.q * (splat(T(12)) * m.mu_sq - m.hw_sq) -
                         g_r * splat(T(4.0 / 15.0)) * m.hw_sq;
      const Vec<T> dq_dmu = splat(T(-6)) * m.mu * m.q / m.total;
      const Vec<T> dq_dhw = splat(T(6)) * m.hw * (m.mu_sq / m.total) / m.total;
      const Vec<T> g_mu = g_t_mean * (splat(T(1)) + two * m.q) - g_t_var * splat(T(6.4)) * q_sq * m.mu + g_r * half * m.mu +
                          g_q * dq_dmu;
      const Vec<T> g_hw = g_t_var * m.hw * (splat(T(2.0 / 3.0)) + splat(T(8.0 / 15.0)) * q_sq) +
                          g_r * m.hw * (splat(T(5.0 / 6.0)) - splat(T(8.0 / 15.0)) * m.q) + g_q * dq_dhw;
      const Vec<T> to_near = half * (g_mu - g_hw), to_far = half * (g_mu + g_hw);
      store_some(grad_edges + i, to_near + shifted_up(to_far, before), count);
      before = to_far;
      if (count <= lanes) {  // the last edge belongs to the last interval alone
        T far[lanes];
        store(far, to_far);
        grad_edges[cones.intervals] = far[count - 1];
      }
    }
    if (cones.intervals == 0) grad_edges[0] = T(0);
    for (int k = 0; k < 3; ++k) {
      out.origins[3 * ray + k] = sum(to_origin[k]);
      out.directions[3 * ray + k] = sum(to_direction[k]);
    }
    out.radii[ray] = sum(to_radius);
  }
}

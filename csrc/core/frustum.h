// SPDX-License-Identifier: Apache-2.0
// A conical frustum as a Gaussian with diagonal covariance, and its adjoint.
// mip-NeRF (Barron et al. 2021) eq. 7, 8 and 16, written with q = hw^2 / (3 mu^2 + hw^2), which lies in [0, 1]: no large
// powers, no difference of nearly equal numbers, and q = 0 for the empty frustum at the apex.
#pragma once

#include "hd.h"

namespace medrecon {

// Below this |direction|^2 the spread across the ray is that of google/mipnerf: 1 - d^2 / 1e-10.
template <typename T>
MR_HD T smallest_direction_sq() {
  return T(1e-10);
}

// Moments of the frustum between t0 and t1: mean and variance along the ray, variance across it for unit radius.
template <typename T>
struct FrustumMoments {
  T mu, hw, q;
  T t_mean, t_var, r_var_unit;
};

template <typename T>
MR_HD FrustumMoments<T> frustum_moments(T t0, T t1) {
  FrustumMoments<T> m;
  m.mu = T(0.5) * (t0 + t1);
  m.hw = T(0.5) * (t1 - t0);
  const T mu_sq = m.mu * m.mu;
  const T hw_sq = m.hw * m.hw;
  const T sum = T(3) * mu_sq + hw_sq;
  m.q = sum == T(0) ? T(0) : hw_sq / sum;  // NaN stays NaN
  m.t_mean = m.mu + T(2) * m.mu * m.q;
  m.t_var = hw_sq / T(3) - T(4.0 / 15.0) * m.q * m.q * (T(12) * mu_sq - hw_sq);
  m.r_var_unit = mu_sq / T(4) + T(5.0 / 12.0) * hw_sq - T(4.0 / 15.0) * hw_sq * m.q;
  return m;
}

// Share of the across-ray variance that falls on each axis: 1 - d_i^2 / |d|^2, formed as the sum of the other two squares,
// which cannot become negative by rounding.
template <typename T>
MR_HD T across_ray(const T d[3], T across[3]) {
  const T sq[3] = {d[0] * d[0], d[1] * d[1], d[2] * d[2]};
  const T norm_sq = sq[0] + sq[1] + sq[2];
  if (norm_sq < smallest_direction_sq<T>()) {
    for (int i = 0; i < 3; ++i) across[i] = T(1) - sq[i] / smallest_direction_sq<T>();
  } else {
    across[0] = (sq[1] + sq[2]) / norm_sq;
    across[1] = (sq[0] + sq[2]) / norm_sq;
    across[2] = (sq[0] + sq[1]) / norm_sq;
  }
  return norm_sq;
}

// One interval of one ray. origin, d, mean, var: [3].
template <typename T>
MR_HD void frustum_gaussian(T t0, T t1, const T origin[3], const T d[3], T radius, T mean[3], T var[3]) {
  const FrustumMoments<T> m = frustum_moments(t0, t1);
  const T r_var = radius * radius * m.r_var_unit;
  T across[3];
  across_ray(d, across);
  for (int i = 0; i < 3; ++i) {
    mean[i] = origin[i] + d[i] * m.t_mean;
    var[i] = m.t_var * d[i] * d[i] + r_var * across[i];
  }
}

// Adjoint of frustum_gaussian. Adds to grad_t0, grad_t1, grad_origin[3], grad_d[3] and grad_radius.
template <typename T>
MR_HD void frustum_gaussian_backward(T t0, T t1, const T d[3], T radius, const T grad_mean[3], const T grad_var[3],
                                     T* grad_t0, T* grad_t1, T grad_origin[3], T grad_d[3], T* grad_radius) {
  const FrustumMoments<T> m = frustum_moments(t0, t1);
  const T r_sq = radius * radius;
  const T r_var = r_sq * m.r_var_unit;
  T across[3];
  const T norm_sq = across_ray(d, across);

  T g_t_mean = T(0), g_t_var = T(0), g_r_var = T(0);
  for (int i = 0; i < 3; ++i) {
    g_t_mean += grad_mean[i] * d[i];
    g_t_var += grad_var[i] * d[i] * d[i];
    g_r_var += grad_var[i] * across[i];
  }

  const bool tiny = norm_sq < smallest_direction_sq<T>();
  const T divisor = tiny ? smallest_direction_sq<T>() : norm_sq;
  const T pull = tiny ? T(0) : g_t_var / divisor;  // d(1/|d|^2) part of the across-ray share
  for (int i = 0; i < 3; ++i) {
    grad_origin[i] += grad_mean[i];
    grad_d[i] += grad_mean[i] * m.t_mean + T(2) * grad_var[i] * m.t_var * d[i] +
                 r_var * (T(2) * d[i] / divisor) * (pull - grad_var[i]);
  }
  *grad_radius += T(2) * radius * m.r_var_unit * g_r_var;

  const T mu_sq = m.mu * m.mu;
  const T hw_sq = m.hw * m.hw;
  const T sum = T(3) * mu_sq + hw_sq;
  const T g_q = g_t_mean * T(2) * m.mu - g_t_var * T(8.0 / 15.0) * m.q * (T(12) * mu_sq - hw_sq) -
                g_r_var * r_sq * T(4.0 / 15.0) * hw_sq;
  const T dq_dmu = sum == T(0) ? T(0) : T(-6) * m.mu * m.q / sum;
  const T dq_dhw = sum == T(0) ? T(0) : T(6) * m.hw * (mu_sq / sum) / sum;
  const T g_mu = g_t_mean * (T(1) + T(2) * m.q) - g_t_var * T(6.4) * m.q * m.q * m.mu + g_r_var * r_sq * T(0.5) * m.mu +
                 g_q * dq_dmu;
  const T g_hw = g_t_var * m.hw * (T(2.0 / 3.0) + T(8.0 / 15.0) * m.q * m.q) +
                 g_r_var * r_sq * m.hw * (T(5.0 / 6.0) - T(8.0 / 15.0) * m.q) + g_q * dq_dhw;
  *grad_t0 += T(0.5) * (g_mu - g_hw);
  *grad_t1 += T(0.5) * (g_mu + g_hw);
}

}  // namespace medrecon

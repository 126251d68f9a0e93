// SPDX-License-Identifier: Apache-2.0
// Sine and cosine of one coordinate at one frequency, of a point (NeRF eq. 4) and of a Gaussian (mip-NeRF eq. 14), and the
// adjoints. Where each value lies in the output is said once, in sine_index / cosine_index: google/mipnerf's layout.
#pragma once

#include "hd.h"

namespace medrecon {

// A row of the output is [all sines | all cosines], each half degree-major: degree k, axis j.
MR_HD int64_t sine_index(int64_t k, int64_t j, int64_t dims) { return k * dims + j; }
MR_HD int64_t cosine_index(int64_t k, int64_t j, int64_t dims, int64_t degrees) { return (degrees + k) * dims + j; }

template <typename T>
MR_HD void encode_point(T x, T scale, T* sine, T* cosine) {
  sin_cos(scale * x, sine, cosine);
}

// Returns this frequency's contribution to grad_x.
template <typename T>
MR_HD T encode_point_backward(T x, T scale, T grad_sine, T grad_cosine) {
  T s, c;
  sin_cos(scale * x, &s, &c);
  return scale * (grad_sine * c - grad_cosine * s);
}

// E[sin], E[cos] of scale * N(mean, var).
template <typename T>
MR_HD void encode_gaussian(T mean, T var, T scale, T* sine, T* cosine) {
  const T damping = exponential(T(-0.5) * (scale * scale) * var);
  if (damping == T(0)) {  // blurred away: spare the range reduction, but let NaN and infinity of the mean show
    *sine = *cosine = T(0) * mean;
    return;
  }
  T s, c;
  sin_cos(scale * mean, &s, &c);
  *sine = damping * s;
  *cosine = damping * c;
}

// Adds this frequency's contribution to grad_mean and grad_var.
template <typename T>
MR_HD void encode_gaussian_backward(T mean, T var, T scale, T grad_sine, T grad_cosine, T* grad_mean, T* grad_var) {
  T s, c;
  encode_gaussian(mean, var, scale, &s, &c);
  *grad_mean += scale * (grad_sine * c - grad_cosine * s);
  *grad_var += T(-0.5) * (scale * scale) * (grad_sine * s + grad_cosine * c);
}

}  // namespace medrecon

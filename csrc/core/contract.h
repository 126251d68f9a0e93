// SPDX-License-Identifier: Apache-2.0
// All of space in the unit cube: mip-NeRF 360 (Barron et al. 2022, eq. 10). The ball of radius 1/4 round the cube's middle
// stays as it is; what is outside comes to lie in the ball of radius 1/2, the nearer to its edge the farther it is.
#pragma once

#include "hd.h"

namespace medrecon {

// The Jacobian of the contraction shrinks lengths towards the middle by `radial` and across that by `across`.
template <typename T>
struct Contraction {
  T place[3], across, radial;

  // The geometric mean of its three factors (Zip-NeRF, Barron et al. 2023, sec. 3.2), for what has no direction.
  MR_HD T mean() const { return std::cbrt(across * across * radial); }
};

// False where x is too far away for this number format.
template <typename T>
MR_HD bool contract(const T* x, Contraction<T>* to) {
  const T y[3] = {x[0] - T(0.5), x[1] - T(0.5), x[2] - T(0.5)};
  const T square = T(16) * (y[0] * y[0] + y[1] * y[1] + y[2] * y[2]);  // of the distance in radii of the inner ball
  if (!(square - square == T(0))) return false;
  to->across = to->radial = T(1);
  if (square <= T(1)) {
    for (int j = 0; j < 3; ++j) to->place[j] = x[j];
    return true;
  }
  const T inverse = T(1) / std::sqrt(square);
  to->across = (T(2) - inverse) * inverse;
  to->radial = inverse * inverse;
  for (int j = 0; j < 3; ++j) to->place[j] = T(0.5) + to->across * y[j];
  return true;
}

// How far to go along `direction` from x for as long a way through the contracted space as `step` is within the ball.
template <typename T>
MR_HD T contracted_step(const T* x, const T* direction, T step) {
  Contraction<T> at;
  if (!contract(x, &at)) return static_cast<T>(INFINITY);
  if (at.across == T(1)) return step;
  T out = T(0), distance = T(0), speed = T(0);
  for (int j = 0; j < 3; ++j) {
    const T y = x[j] - T(0.5);
    out += y * direction[j];
    distance += y * y;
    speed += direction[j] * direction[j];
  }
  if (!(speed > T(0))) return step;
  const T outwards = out * out / (distance * speed);  // squared cosine
  return step / std::sqrt(at.across * at.across * (T(1) - outwards) + at.radial * at.radial * outwards);
}

}  // namespace medrecon

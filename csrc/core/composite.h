// SPDX-License-Identifier: Apache-2.0
// Volume rendering along a ray (Max 1995; mip-NeRF, Barron et al. 2021, eq. 3) and its adjoint.
//
// The optical depth of an interval is o = density * length, what reaches it T = exp(-(o of those before it)), its weight
// w = (1 - exp(-o)) T. With G = dL/dw the adjoint is dL/do_k = G_k exp(-o_k) T_k - sum_{i>k} G_i w_i: no quotient, so finite
// for opaque intervals too. The factor exp(-o_k) T_k is the light that leaves interval k: what leaves the ray plus the weights of
// the intervals behind k, a sum of positive terms. What leaves the ray, L, is exp(-(all o)), not 1 - sum w, which cancels where
// the ray is nearly opaque; a part of G that is the same for all intervals is a derivative with respect to 1 - L and gives
// just that part times L.
#pragma once

#include "hd.h"

namespace medrecon {

// The samples of one ray; [count], rgb [count, 3].
template <typename T>
struct RaySamples {
  int64_t first, count;  // among the samples of all rays
  const T *rgb, *density, *t0, *t1;
};

// All rays. Dense: offsets is null and t1 is t0 + 1, both [rays, intervals + 1]. Packed: the samples of ray r are
// offsets[r] .. offsets[r + 1] of [samples] arrays; offsets that point elsewhere are brought within them.
template <typename T>
struct Rays {
  int64_t rays, intervals, samples;
  const int64_t* offsets;
  const T *rgb, *density, *t0, *t1, *directions, *background;
  int64_t background_stride;  // 3, or 0 where all rays have the same
  T stop;  // an interval that less light than this reaches weighs nothing

  MR_HD RaySamples<T> ray(int64_t r) const {
    if (offsets == nullptr) {
      const int64_t first = r * intervals;
      return {first, intervals, rgb + 3 * first, density + first, t0 + first + r, t1 + first + r};
    }
    const int64_t first = within(offsets[r], 0);
    return {first, within(offsets[r + 1], first) - first, rgb + 3 * first, density + first, t0 + first, t1 + first};
  }

  MR_HD const T* behind(int64_t r) const { return background + r * background_stride; }

  MR_HD int64_t within(int64_t offset, int64_t least) const {
    return offset < least ? least : (offset > samples ? samples : offset);
  }
};

// What a ray gives (P: pointer to output), or the gradients of that (P: pointer to const). rgb [rays, 3], depth and opacity
// [rays], weights [samples].
template <typename P>
struct Pixels {
  P rgb, depth, opacity, weights;
};

// Gradients of the inputs. Dense: t0 is [rays, intervals + 1] and t1 unused.
template <typename T>
struct RayGradients {
  T *rgb, *density, *t0, *t1, *directions, *background;
};

// |d|, also where its square is no float.
template <typename T>
MR_HD T length_of(const T d[3]) {
  const double x = d[0], y = d[1], z = d[2];
  return static_cast<T>(std::sqrt(x * x + y * y + z * z));
}

// exp(x) - 1
MR_HD float exponential_less_1(float x) {
#if defined(__CUDA_ARCH__)
  return expm1f(x);
#else
  return std::expm1(x);
#endif
}

MR_HD double exponential_less_1(double x) {
#if defined(__CUDA_ARCH__)
  return expm1(x);
#else
  return std::expm1(x);
#endif
}

// dL/dw of the intervals of a ray but for the part that they share, and what else all of them share.
template <typename T>
struct RayCotangent {
  T rgb[3];
  T same;   // dL/d(opacity): the part of dL/dw that does not depend on the interval
  T depth;  // expected depth of the ray
  T reach;  // dL/d(sum of weight * midpoint)

  MR_HD RayCotangent(int64_t r, const Pixels<const T*>& grad, const Pixels<const T*>& made, const T* behind) {
    const T seen = made.opacity[r];
    depth = made.depth[r];
    reach = seen > T(0) ? grad.depth[r] / seen : T(0);
    same = grad.opacity[r];
    for (int c = 0; c < 3; ++c) {
      rgb[c] = grad.rgb[3 * r + c];
      same -= rgb[c] * behind[c];
    }
  }

  MR_HD T of_weight(T grad_weight, const T* colour, T t0, T t1) const {
    return grad_weight + (T(0.5) * (t0 + t1) - depth) * reach +
           (rgb[0] * colour[0] + rgb[1] * colour[1] + rgb[2] * colour[2]);
  }
};

}  // namespace medrecon

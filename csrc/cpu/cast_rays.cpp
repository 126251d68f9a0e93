// SPDX-License-Identifier: Apache-2.0
#include "../core/frustum.h"
#include "cast_rays.h"
#include "parallel.h"

namespace medrecon::cpu {

template <typename T>
void cast_rays(int64_t rays, int64_t intervals, const T* t, const T* origins, const T* directions, const T* radii, T* mean,
               T* var) {
  parallel_for(rays, intervals, [=](int64_t begin, int64_t end) {
    for (int64_t ray = begin; ray < end; ++ray) {
      const T* edges = t + ray * (intervals + 1);
      for (int64_t i = 0; i < intervals; ++i) {
        const int64_t at = 3 * (ray * intervals + i);
        frustum_gaussian(edges[i], edges[i + 1], origins + 3 * ray, directions + 3 * ray, radii[ray], mean + at, var + at);
      }
    }
  });
}

template <typename T>
void cast_rays_backward(int64_t rays, int64_t intervals, const T* grad_mean, const T* grad_var, const T* t,
                        const T* directions, const T* radii, T* grad_t, T* grad_origins, T* grad_directions,
                        T* grad_radii) {
  parallel_for(rays, intervals, [=](int64_t begin, int64_t end) {
    for (int64_t ray = begin; ray < end; ++ray) {
      const T* edges = t + ray * (intervals + 1);
      T* grad_edges = grad_t + ray * (intervals + 1);
      T grad_origin[3] = {}, grad_direction[3] = {}, grad_radius = T(0);
      grad_edges[0] = T(0);
      for (int64_t i = 0; i < intervals; ++i) {
        const int64_t at = 3 * (ray * intervals + i);
        grad_edges[i + 1] = T(0);
        frustum_gaussian_backward(edges[i], edges[i + 1], directions + 3 * ray, radii[ray], grad_mean + at, grad_var + at,
                                  grad_edges + i, grad_edges + i + 1, grad_origin, grad_direction, &grad_radius);
      }
      for (int k = 0; k < 3; ++k) {
        grad_origins[3 * ray + k] = grad_origin[k];
        grad_directions[3 * ray + k] = grad_direction[k];
      }
      grad_radii[ray] = grad_radius;
    }
  });
}

#define MR_INSTANTIATE(T)                                                                                               \
  template void cast_rays<T>(int64_t, int64_t, const T*, const T*, const T*, const T*, T*, T*);                         \
  template void cast_rays_backward<T>(int64_t, int64_t, const T*, const T*, const T*, const T*, const T*, T*, T*, T*, T*);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cpu

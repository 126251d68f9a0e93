// SPDX-License-Identifier: Apache-2.0
#include "../core/frustum.h"
#include "cast_rays.h"
#include "launch.h"

namespace medrecon::cuda {
namespace {

// One thread per interval.
template <typename T>
__global__ void forward_kernel(int64_t total, int64_t intervals, const T* t, const T* origins, const T* directions,
                               const T* radii, T* mean, T* var) {
  MR_GRID_STRIDE(index, total) {
    const int64_t ray = index / intervals;
    const T* edges = t + ray + index;  // ray * (intervals + 1) + (index - ray * intervals)
    frustum_gaussian(edges[0], edges[1], origins + 3 * ray, directions + 3 * ray, radii[ray], mean + 3 * index,
                     var + 3 * index);
  }
}

// One thread per ray: its gradients are sums along the ray, always in the same order.
template <typename T>
__global__ void backward_kernel(int64_t rays, int64_t intervals, const T* grad_mean, const T* grad_var, const T* t,
                                const T* directions, const T* radii, T* grad_t, T* grad_origins, T* grad_directions,
                                T* grad_radii) {
  MR_GRID_STRIDE(ray, rays) {
    const T* edges = t + ray * (intervals + 1);
    T* grad_edges = grad_t + ray * (intervals + 1);
    T grad_origin[3] = {}, grad_direction[3] = {}, grad_radius = T(0), carried = T(0);
    for (int64_t i = 0; i < intervals; ++i) {
      const int64_t at = 3 * (ray * intervals + i);
      T next = T(0);
      frustum_gaussian_backward(edges[i], edges[i + 1], directions + 3 * ray, radii[ray], grad_mean + at, grad_var + at,
                                &carried, &next, grad_origin, grad_direction, &grad_radius);
      grad_edges[i] = carried;
      carried = next;
    }
    grad_edges[intervals] = carried;
    for (int k = 0; k < 3; ++k) {
      grad_origins[3 * ray + k] = grad_origin[k];
      grad_directions[3 * ray + k] = grad_direction[k];
    }
    grad_radii[ray] = grad_radius;
  }
}

}  // namespace

template <typename T>
int cast_rays(void* stream, int64_t rays, int64_t intervals, const T* t, const T* origins, const T* directions,
              const T* radii, T* mean, T* var) {
  return launch(stream, forward_kernel<T>, rays * intervals, intervals, t, origins, directions, radii, mean, var);
}

template <typename T>
int cast_rays_backward(void* stream, int64_t rays, int64_t intervals, const T* grad_mean, const T* grad_var, const T* t,
                       const T* directions, const T* radii, T* grad_t, T* grad_origins, T* grad_directions, T* grad_radii) {
  return launch(stream, backward_kernel<T>, rays, intervals, grad_mean, grad_var, t, directions, radii, grad_t, grad_origins,
                grad_directions, grad_radii);
}

#define MR_INSTANTIATE(T)                                                                                                  \
  template int cast_rays<T>(void*, int64_t, int64_t, const T*, const T*, const T*, const T*, T*, T*);                     \
  template int cast_rays_backward<T>(void*, int64_t, int64_t, const T*, const T*, const T*, const T*, const T*, T*, T*,   \
                                     T*, T*);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cuda

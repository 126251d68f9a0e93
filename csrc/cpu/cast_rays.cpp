// SPDX-License-Identifier: Apache-2.0
#include "cast_rays.h"

#include <algorithm>
#include <utility>

#include "../core/frustum.h"
#include "parallel.h"
#include "vector.h"

namespace medrecon::cpu {
namespace {

template <typename T>
struct Cones {
  int64_t intervals;
  const T *t, *origins, *directions, *radii;
};

template <typename T>
struct ConeGradients {
  T *t, *origins, *directions, *radii;
};

#define MR_KERNELS "cast_rays.inl.h"
#include "each_isa.inl.h"

}  // namespace

template <typename T>
void cast_rays(int64_t rays, int64_t intervals, const T* t, const T* origins, const T* directions, const T* radii, T* mean,
               T* var) {
  const Cones<T> cones{intervals, t, origins, directions, radii};
  const auto kernel = MR_BEST(forward<T>);
  parallel_for(rays, intervals / 4, [=](int64_t begin, int64_t end) { kernel(cones, begin, end, mean, var); });
}

template <typename T>
void cast_rays_backward(int64_t rays, int64_t intervals, const T* grad_mean, const T* grad_var, const T* t,
                        const T* directions, const T* radii, T* grad_t, T* grad_origins, T* grad_directions,
                        T* grad_radii) {
  const Cones<T> cones{intervals, t, nullptr, directions, radii};
  const ConeGradients<T> out{grad_t, grad_origins, grad_directions, grad_radii};
  const auto kernel = MR_BEST(backward<T>);
  parallel_for(rays, intervals / 2, [=](int64_t begin, int64_t end) {
    kernel(cones, begin, end, grad_mean, grad_var, out);
  });
}

#define MR_INSTANTIATE(T)                                                                                               \
  template void cast_rays<T>(int64_t, int64_t, const T*, const T*, const T*, const T*, T*, T*);                         \
  template void cast_rays_backward<T>(int64_t, int64_t, const T*, const T*, const T*, const T*, const T*, T*, T*, T*, T*);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cpu

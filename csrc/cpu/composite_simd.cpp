// SPDX-License-Identifier: Apache-2.0
// composite for each instruction set, split over threads. A ray belongs to one thread, so the sums along it have one order.
#include <algorithm>
#include <utility>

#include "composite.h"
#include "parallel.h"
#include "vector.h"

namespace medrecon::cpu {

#define MR_KERNELS "composite.inl.h"
#include "each_isa.inl.h"

namespace {

// Splits dense rays by groups(begin, end) of them, packed ones by single(begin, end).
template <typename T, typename Groups, typename Single>
void each_ray(const Rays<T>& rays, const Groups& groups, const Single& single) {
  const int64_t work = rays.intervals;
  if (rays.offsets == nullptr) {
    const int64_t lanes = MR_BEST(kLanes<T>);
    parallel_for((rays.rays + lanes - 1) / lanes, lanes * work, groups);
  } else {
    parallel_for(rays.rays, rays.samples / std::max<int64_t>(1, rays.rays), single);
  }
}

}  // namespace

template <typename T>
void composite(const Rays<T>& rays, const Pixels<T*>& out) {
  each_ray(
      rays, [&](int64_t begin, int64_t end) { MR_BEST(forward_groups<T>)(rays, out, begin, end); },
      [&](int64_t begin, int64_t end) { MR_BEST(forward<T>)(rays, out, begin, end); });
}

template <typename T>
void composite_backward(const Rays<T>& rays, const Pixels<const T*>& grad, const Pixels<const T*>& made,
                        const RayGradients<T>& out) {
  each_ray(
      rays, [&](int64_t begin, int64_t end) { MR_BEST(backward_groups<T>)(rays, grad, made, out, begin, end); },
      [&](int64_t begin, int64_t end) { MR_BEST(backward<T>)(rays, grad, made, out, begin, end); });
}

#define MR_INSTANTIATE(T)                                                                              \
  template void composite<T>(const Rays<T>&, const Pixels<T*>&);                                      \
  template void composite_backward<T>(const Rays<T>&, const Pixels<const T*>&, const Pixels<const T*>&, \
                                      const RayGradients<T>&);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cpu

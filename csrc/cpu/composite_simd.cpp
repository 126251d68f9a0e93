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

// Samples of a ray on average.
template <typename T>
int64_t usual_count(const Rays<T>& rays) {
  return rays.offsets == nullptr ? rays.intervals : rays.samples / std::max<int64_t>(1, rays.rays);
}

}  // namespace

template <typename T>
void composite(const Rays<T>& rays, const Pixels<T*>& out) {
  parallel_for(rays.rays, usual_count(rays), [&](int64_t begin, int64_t end) {
    MR_BEST(forward<T>)(rays, out, begin, end);
  });
}

template <typename T>
void composite_backward(const Rays<T>& rays, const Pixels<const T*>& grad, const Pixels<const T*>& made,
                        const RayGradients<T>& out) {
  parallel_for(rays.rays, usual_count(rays), [&](int64_t begin, int64_t end) {
    MR_BEST(backward<T>)(rays, grad, made, out, begin, end);
  });
}

#define MR_INSTANTIATE(T)                                                                              \
  template void composite<T>(const Rays<T>&, const Pixels<T*>&);                                      \
  template void composite_backward<T>(const Rays<T>&, const Pixels<const T*>&, const Pixels<const T*>&, \
                                      const RayGradients<T>&);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cpu

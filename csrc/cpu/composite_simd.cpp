// SPDX-License-Identifier: Apache-2.0
// composite for each instruction set, split over threads. A ray belongs to one thread, so the sums along it have one order.
#include <algorithm>
#include <utility>
#include <vector>

#include "composite.h"
#include "parallel.h"
#include "vector.h"

namespace medrecon::cpu {

#define MR_KERNELS "composite.inl.h"
#include "each_isa.inl.h"

namespace {

// Samples of a ray on average; of the rays from begin to end at most.
template <typename T>
int64_t usual_count(const Rays<T>& rays) {
  return rays.offsets == nullptr ? rays.intervals : rays.samples / std::max<int64_t>(1, rays.rays);
}

template <typename T>
int64_t most_samples(const Rays<T>& rays, int64_t begin, int64_t end) {
  int64_t most = 0;
  for (int64_t r = begin; r < end; ++r) most = std::max(most, rays.ray(r).count);
  return most;
}

}  // namespace

template <typename T>
void composite(const Rays<T>& rays, const Pixels<T*>& out) {
  parallel_for(rays.rays, usual_count(rays), [&](int64_t begin, int64_t end) {
    MR_BEST(forward<T>)(rays, out, begin, end);
  });
}

template <typename T>
void composite_backward(const Rays<T>& rays, const Pixels<const T*>& grad, const RayGradients<T>& out) {
  parallel_for(rays.rays, usual_count(rays), [&](int64_t begin, int64_t end) {
    constexpr int64_t widest = 64 / sizeof(T);
    const int64_t whole = (most_samples(rays, begin, end) + widest - 1) / widest * widest;
    std::vector<T> work(2 * static_cast<size_t>(whole));
    MR_BEST(backward<T>)(rays, grad, out, begin, end, work.data());
  });
}

#define MR_INSTANTIATE(T)                                          \
  template void composite<T>(const Rays<T>&, const Pixels<T*>&);  \
  template void composite_backward<T>(const Rays<T>&, const Pixels<const T*>&, const RayGradients<T>&);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cpu

// SPDX-License-Identifier: Apache-2.0
#include "../core/resample.h"
#include "launch.h"
#include "resample.h"

namespace medrecon::cuda {
namespace {

// One thread per ray: both the histogram and the quantiles are walked once, in order.
template <typename T>
__global__ void resample_kernel(int64_t rays, int64_t bins, int64_t n, bool shared, T padding, const T* t, const T* weights,
                                const T* u, T* out) {
  MR_GRID_STRIDE(ray, rays) {
    CumulativeWalk<T> place(bins, t + ray * (bins + 1), weights + ray * bins, padding);
    const T* quantiles = shared ? u : u + ray * n;
    for (int64_t j = 0; j < n; ++j) out[ray * n + j] = place(quantiles[j]);
  }
}

}  // namespace

template <typename T>
int resample(void* stream, int64_t rays, int64_t bins, int64_t n, bool shared, T padding, const T* t, const T* weights,
             const T* u, T* out) {
  return launch(stream, resample_kernel<T>, rays, bins, n, shared, padding, t, weights, u, out);
}

#define MR_INSTANTIATE(T) \
  template int resample<T>(void*, int64_t, int64_t, int64_t, bool, T, const T*, const T*, const T*, T*);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cuda

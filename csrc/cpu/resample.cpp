// SPDX-License-Identifier: Apache-2.0
#include "resample.h"

#include "../core/resample.h"
#include "parallel.h"

namespace medrecon::cpu {

template <typename T>
void resample(int64_t rays, int64_t bins, int64_t n, bool shared, T padding, const T* t, const T* weights, const T* u,
              T* out) {
  parallel_for(rays, bins + n, [=](int64_t begin, int64_t end) {
    for (int64_t ray = begin; ray < end; ++ray) {
      CumulativeWalk<T> place(bins, t + ray * (bins + 1), weights + ray * bins, padding);
      const T* quantiles = shared ? u : u + ray * n;
      for (int64_t j = 0; j < n; ++j) out[ray * n + j] = place(quantiles[j]);
    }
  });
}

#define MR_INSTANTIATE(T) \
  template void resample<T>(int64_t, int64_t, int64_t, bool, T, const T*, const T*, const T*, T*);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cpu

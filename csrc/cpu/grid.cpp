// SPDX-License-Identifier: Apache-2.0
#include "grid.h"

#include <algorithm>
#include <atomic>

#include "grid_passes.h"
#include "parallel.h"

namespace medrecon::cpu {

template <typename T>
void grid_encode(int64_t samples, int64_t levels, const int64_t* resolutions, int64_t log2_size, int64_t features, const T* x,
                 const T* sigma, const T* table, T* out) {
  const GridLevels all = grid_levels(resolutions, levels, log2_size);
  const GridArrays<T> arrays{&all, features, x, sigma};
  parallel_for(samples, 8 * levels * features, [&](int64_t begin, int64_t end) {
    grid_passes<T>().forward(arrays, begin, end, table, out);
  });
}

template <typename T>
void grid_encode_backward_table(int64_t samples, int64_t levels, const int64_t* resolutions, int64_t log2_size,
                                int64_t features, const T* grad, const T* x, const T* sigma, T* grad_table) {
  const GridLevels all = grid_levels(resolutions, levels, log2_size);
  const GridArrays<T> arrays{&all, features, x, sigma};
  parallel_for(all.entries * features, 1,
               [=](int64_t begin, int64_t end) { std::fill(grad_table + begin, grad_table + end, T(0)); });
  // Whoever is free takes the finest level left: those take longest. Who that is does not matter to the sums.
  std::atomic<int64_t> left{levels};
  parallel_ranges(std::min<int64_t>(levels, threads()), 1, [&](int64_t, int64_t) {
    for (int64_t level = --left; level >= 0; level = --left) {
      grid_passes<T>().backward(arrays, 0, samples, level, grad, grad_table);
    }
  });
}

template <typename T>
void grid_encode_backward_inputs(int64_t samples, int64_t levels, const int64_t* resolutions, int64_t log2_size,
                                 int64_t features, const T* grad, const T* x, const T* sigma, const T* table, T* grad_x,
                                 T* grad_sigma) {
  const GridLevels all = grid_levels(resolutions, levels, log2_size);
  parallel_for(samples, 16 * levels * features, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      grid_sample_backward(all, features, grad + s * levels * features, x + 3 * s, sigma == nullptr ? nullptr : sigma + s,
                           table, grad_x + 3 * s, grad_sigma == nullptr ? nullptr : grad_sigma + s);
    }
  });
}

#define MR_INSTANTIATE(T)                                                                                                    \
  template void grid_encode<T>(int64_t, int64_t, const int64_t*, int64_t, int64_t, const T*, const T*, const T*, T*);        \
  template void grid_encode_backward_table<T>(int64_t, int64_t, const int64_t*, int64_t, int64_t, const T*, const T*,        \
                                              const T*, T*);                                                                 \
  template void grid_encode_backward_inputs<T>(int64_t, int64_t, const int64_t*, int64_t, int64_t, const T*, const T*,       \
                                               const T*, const T*, T*, T*);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cpu

// SPDX-License-Identifier: Apache-2.0
#include "encoding.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "../core/encoding.h"
#include "parallel.h"
#include "vector.h"

namespace medrecon::cpu {
namespace {

// One half of a row, element by element: the axis that it encodes, the frequency and what the variance is multiplied with in
// the exponent, to base 2, of the damping. After the `half` elements come zeros, so that whole vectors (and points) can be read.
template <typename T>
struct Frequencies {
  int64_t dims, half, padded;
  std::vector<std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>> axis;
  std::vector<T> scale, blur;
  T top = T(1);  // the highest frequency

  Frequencies(int64_t dims, int64_t min_deg, int64_t degrees)
      : dims(dims),
        half(dims * degrees),
        padded(half + std::max<int64_t>(16, dims)),
        axis(padded),
        scale(padded),
        blur(padded) {
    for (int64_t k = 0; k < degrees; ++k) {
      for (int64_t j = 0; j < dims; ++j) {
        const int64_t at = sine_index(k, j, dims);
        axis[at] = static_cast<uint32_t>(j);
        scale[at] = power_of_two<T>(min_deg + k);
        blur[at] = static_cast<T>(-0.5 * 1.44269504088896340736) * (scale[at] * scale[at]);
      }
      top = power_of_two<T>(min_deg + k);
    }
  }

  // Cost of a point for parallel_for; a vector costs about as much as one elementary function of the standard library.
  int64_t work(int64_t functions) const { return functions * half / 8; }
};

#define MR_KERNELS "encoding.inl.h"
#include "each_isa.inl.h"

}  // namespace

template <typename T>
void positional_encoding(int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* x, T* out) {
  const Frequencies<T> f(dims, min_deg, degrees);
  const auto kernel = MR_BEST(positional_encoding<T>);
  parallel_for(points, f.work(2), [=, &f](int64_t begin, int64_t end) { kernel(f, begin, end, x, out); });
}

template <typename T>
void positional_encoding_backward(int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* grad, const T* x,
                                  T* grad_x) {
  const Frequencies<T> f(dims, min_deg, degrees);
  const auto kernel = MR_BEST(positional_encoding_backward<T>);
  parallel_for(points, f.work(2), [=, &f](int64_t begin, int64_t end) { kernel(f, begin, end, grad, x, grad_x); });
}

template <typename T>
void integrated_positional_encoding(int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* mean,
                                    const T* var, T* out) {
  const Frequencies<T> f(dims, min_deg, degrees);
  const auto kernel = MR_BEST(integrated_positional_encoding<T>);
  parallel_for(points, f.work(3), [=, &f](int64_t begin, int64_t end) { kernel(f, begin, end, mean, var, out); });
}

template <typename T>
void integrated_positional_encoding_backward(int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* grad,
                                             const T* mean, const T* var, T* grad_mean, T* grad_var) {
  const Frequencies<T> f(dims, min_deg, degrees);
  const auto kernel = MR_BEST(integrated_positional_encoding_backward<T>);
  parallel_for(points, f.work(3), [=, &f](int64_t begin, int64_t end) {
    kernel(f, begin, end, grad, mean, var, grad_mean, grad_var);
  });
}

#define MR_INSTANTIATE(T)                                                                                             \
  template void positional_encoding<T>(int64_t, int64_t, int64_t, int64_t, const T*, T*);                             \
  template void positional_encoding_backward<T>(int64_t, int64_t, int64_t, int64_t, const T*, const T*, T*);          \
  template void integrated_positional_encoding<T>(int64_t, int64_t, int64_t, int64_t, const T*, const T*, T*);        \
  template void integrated_positional_encoding_backward<T>(int64_t, int64_t, int64_t, int64_t, const T*, const T*,    \
                                                           const T*, T*, T*);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cpu

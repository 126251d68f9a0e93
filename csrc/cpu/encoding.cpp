// SPDX-License-Identifier: Apache-2.0
#include "../core/encoding.h"
#include "encoding.h"
#include "parallel.h"

namespace medrecon::cpu {

template <typename T>
void positional_encoding(int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* x, T* out) {
  parallel_for(points, 2 * dims * degrees, [=](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      T* row = out + p * 2 * dims * degrees;
      for (int64_t k = 0; k < degrees; ++k) {
        const T scale = power_of_two<T>(min_deg + k);
        for (int64_t j = 0; j < dims; ++j) {
          encode_point(x[p * dims + j], scale, row + sine_index(k, j, dims), row + cosine_index(k, j, dims, degrees));
        }
      }
    }
  });
}

template <typename T>
void positional_encoding_backward(int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* grad, const T* x,
                                  T* grad_x) {
  parallel_for(points, 2 * dims * degrees, [=](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const T* row = grad + p * 2 * dims * degrees;
      for (int64_t j = 0; j < dims; ++j) {
        T sum = T(0);
        for (int64_t k = 0; k < degrees; ++k) {
          sum += encode_point_backward(x[p * dims + j], power_of_two<T>(min_deg + k), row[sine_index(k, j, dims)],
                                       row[cosine_index(k, j, dims, degrees)]);
        }
        grad_x[p * dims + j] = sum;
      }
    }
  });
}

template <typename T>
void integrated_positional_encoding(int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* mean,
                                    const T* var, T* out) {
  parallel_for(points, 3 * dims * degrees, [=](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      T* row = out + p * 2 * dims * degrees;
      for (int64_t k = 0; k < degrees; ++k) {
        const T scale = power_of_two<T>(min_deg + k);
        for (int64_t j = 0; j < dims; ++j) {
          encode_gaussian(mean[p * dims + j], var[p * dims + j], scale, row + sine_index(k, j, dims),
                          row + cosine_index(k, j, dims, degrees));
        }
      }
    }
  });
}

template <typename T>
void integrated_positional_encoding_backward(int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* grad,
                                             const T* mean, const T* var, T* grad_mean, T* grad_var) {
  parallel_for(points, 3 * dims * degrees, [=](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const T* row = grad + p * 2 * dims * degrees;
      for (int64_t j = 0; j < dims; ++j) {
        const int64_t at = p * dims + j;
        T to_mean = T(0), to_var = T(0);
        for (int64_t k = 0; k < degrees; ++k) {
          encode_gaussian_backward(mean[at], var[at], power_of_two<T>(min_deg + k), row[sine_index(k, j, dims)],
                                   row[cosine_index(k, j, dims, degrees)], &to_mean, &to_var);
        }
        grad_mean[at] = to_mean;
        grad_var[at] = to_var;
      }
    }
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

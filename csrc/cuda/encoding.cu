// SPDX-License-Identifier: Apache-2.0
#include "../core/encoding.h"
#include "encoding.h"
#include "launch.h"

namespace medrecon::cuda {
namespace {

// Forward: one thread per (point, degree, axis), so that neighbouring threads write neighbouring sines and cosines.
struct Place {
  int64_t point, k, j;
};

__device__ __forceinline__ Place place_of(int64_t index, int64_t dims, int64_t degrees) {
  const int64_t rest = index / dims;
  return {rest / degrees, rest % degrees, index % dims};
}

template <typename T>
__global__ void point_kernel(int64_t total, int64_t dims, int64_t min_deg, int64_t degrees, const T* x, T* out) {
  MR_GRID_STRIDE(index, total) {
    const Place at = place_of(index, dims, degrees);
    T* row = out + at.point * 2 * dims * degrees;
    encode_point(x[at.point * dims + at.j], power_of_two<T>(min_deg + at.k), row + sine_index(at.k, at.j, dims),
                 row + cosine_index(at.k, at.j, dims, degrees));
  }
}

template <typename T>
__global__ void gaussian_kernel(int64_t total, int64_t dims, int64_t min_deg, int64_t degrees, const T* mean, const T* var,
                                T* out) {
  MR_GRID_STRIDE(index, total) {
    const Place at = place_of(index, dims, degrees);
    const int64_t in = at.point * dims + at.j;
    T* row = out + at.point * 2 * dims * degrees;
    encode_gaussian(mean[in], var[in], power_of_two<T>(min_deg + at.k), row + sine_index(at.k, at.j, dims),
                    row + cosine_index(at.k, at.j, dims, degrees));
  }
}

// Backward: one thread per (point, axis) sums over the degrees, always in the same order.
template <typename T>
__global__ void point_backward_kernel(int64_t total, int64_t dims, int64_t min_deg, int64_t degrees, const T* grad,
                                      const T* x, T* grad_x) {
  MR_GRID_STRIDE(index, total) {
    const int64_t j = index % dims;
    const T* row = grad + (index / dims) * 2 * dims * degrees;
    T sum = T(0);
    for (int64_t k = 0; k < degrees; ++k) {
      sum += encode_point_backward(x[index], power_of_two<T>(min_deg + k), row[sine_index(k, j, dims)],
                                   row[cosine_index(k, j, dims, degrees)]);
    }
    grad_x[index] = sum;
  }
}

template <typename T>
__global__ void gaussian_backward_kernel(int64_t total, int64_t dims, int64_t min_deg, int64_t degrees, const T* grad,
                                         const T* mean, const T* var, T* grad_mean, T* grad_var) {
  MR_GRID_STRIDE(index, total) {
    const int64_t j = index % dims;
    const T* row = grad + (index / dims) * 2 * dims * degrees;
    T to_mean = T(0), to_var = T(0);
    for (int64_t k = 0; k < degrees; ++k) {
      encode_gaussian_backward(mean[index], var[index], power_of_two<T>(min_deg + k), row[sine_index(k, j, dims)],
                               row[cosine_index(k, j, dims, degrees)], &to_mean, &to_var);
    }
    grad_mean[index] = to_mean;
    grad_var[index] = to_var;
  }
}

}  // namespace

template <typename T>
int positional_encoding(void* stream, int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* x, T* out) {
  return launch(stream, point_kernel<T>, points * dims * degrees, dims, min_deg, degrees, x, out);
}

template <typename T>
int positional_encoding_backward(void* stream, int64_t points, int64_t dims, int64_t min_deg, int64_t degrees, const T* grad,
                                 const T* x, T* grad_x) {
  return launch(stream, point_backward_kernel<T>, points * dims, dims, min_deg, degrees, grad, x, grad_x);
}

template <typename T>
int integrated_positional_encoding(void* stream, int64_t points, int64_t dims, int64_t min_deg, int64_t degrees,
                                   const T* mean, const T* var, T* out) {
  return launch(stream, gaussian_kernel<T>, points * dims * degrees, dims, min_deg, degrees, mean, var, out);
}

template <typename T>
int integrated_positional_encoding_backward(void* stream, int64_t points, int64_t dims, int64_t min_deg, int64_t degrees,
                                            const T* grad, const T* mean, const T* var, T* grad_mean, T* grad_var) {
  return launch(stream, gaussian_backward_kernel<T>, points * dims, dims, min_deg, degrees, grad, mean, var, grad_mean,
                grad_var);
}

#define MR_INSTANTIATE(T)                                                                                                 \
  template int positional_encoding<T>(void*, int64_t, int64_t, int64_t, int64_t, const T*, T*);                          \
  template int positional_encoding_backward<T>(void*, int64_t, int64_t, int64_t, int64_t, const T*, const T*, T*);       \
  template int integrated_positional_encoding<T>(void*, int64_t, int64_t, int64_t, int64_t, const T*, const T*, T*);     \
  template int integrated_positional_encoding_backward<T>(void*, int64_t, int64_t, int64_t, int64_t, const T*, const T*, \
                                                          const T*, T*, T*);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cuda

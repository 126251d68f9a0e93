// SPDX-License-Identifier: Apache-2.0
// The hash grid on a GPU. The gradient of the table is summed in fixed point: additions of integers may come in any order and
// give the same sum, so atomics are deterministic there, without sorting or a copy of the table per block. Each level's unit
// is a power of two below its largest gradient, such that no sum overflows: for 2^18 samples 2^-40 of the largest, in float.
// In double a second integer takes what the first cannot hold, which is as much again.
#include "grid.h"

#include "../core/grid.h"
#include "launch.h"

namespace medrecon::cuda {
namespace {

constexpr int64_t kParts = 64;  // blocks that look for the largest gradient of a level

// One thread per (level, sample).
template <typename T>
__global__ void forward_kernel(int64_t total, GridLevels levels, int64_t samples, int64_t features, const T* x,
                               const T* sigma, const T* table, T* out) {
  MR_GRID_STRIDE(index, total) {
    const int64_t l = index / samples, sample = index - l * samples;
    const GridLevel level = levels.level[l];
    const GridCell<T> cell = grid_cell(level, x + 3 * sample);
    const T faded = sigma == nullptr ? T(1) : fade(sigma[sample], static_cast<T>(level.resolution));
    const T* entries = table + level.offset * features;
    T* row = out + (sample * levels.count + l) * features;
    for (int64_t j = 0; j < features; ++j) row[j] = faded * grid_feature(level, cell, features, j, entries);
  }
}

// One thread per sample.
template <typename T>
__global__ void inputs_kernel(int64_t samples, GridLevels levels, int64_t features, const T* grad, const T* x,
                              const T* sigma, const T* table, T* grad_x, T* grad_sigma) {
  MR_GRID_STRIDE(sample, samples) {
    grid_sample_backward(levels, features, grad + sample * levels.count * features, x + 3 * sample,
                         sigma == nullptr ? nullptr : sigma + sample, table, grad_x + 3 * sample, grad_sigma + sample);
  }
}

// largest[level] = bits of the largest finite |gradient|, as a double: bits of numbers >= 0 are in the order of the numbers.
template <typename T>
__global__ void largest_kernel(int64_t pieces, int64_t samples, int64_t levels, int64_t features, const T* grad,
                               unsigned long long* largest) {
  __shared__ double block[kThreads];
  for (int64_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
    const int64_t l = piece / kParts;
    double most = 0;
    for (int64_t s = (piece % kParts) * blockDim.x + threadIdx.x; s < samples; s += kParts * blockDim.x) {
      for (int64_t j = 0; j < features; ++j) {
        const double size = std::fabs(static_cast<double>(grad[(s * levels + l) * features + j]));
        if (size > most && size - size == 0) most = size;
      }
    }
    block[threadIdx.x] = most;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half && block[threadIdx.x + half] > block[threadIdx.x]) {
        block[threadIdx.x] = block[threadIdx.x + half];
      }
    }
    if (threadIdx.x == 0) {
      unsigned long long bits;
      memcpy(&bits, block, sizeof(bits));
      atomicMax(largest + l, bits);
    }
    __syncthreads();
  }
}

// Fixed point of one level: value = (high + low 2^-bits) 2^(exponent - bits).
struct FixedPoint {
  int bits, exponent;
};

// bits leaves room for 8 contributions of each sample; the smallest doubles are not told apart from 0.
MR_HD FixedPoint fixed_point(int64_t samples, unsigned long long largest) {
  int log2_samples = 0;
  while (log2_samples < 57 && (int64_t{1} << log2_samples) < samples) ++log2_samples;
  const int exponent = static_cast<int>(largest >> 52) - 1022;
  return {58 - log2_samples, exponent < -900 ? -900 : exponent};
}

// One thread per (level, sample). What is not finite makes its entry NaN.
template <typename T>
__global__ void add_kernel(int64_t total, GridLevels levels, int64_t samples, int64_t features, const T* grad, const T* x,
                           const T* sigma, const unsigned long long* largest, unsigned long long* sums, T* grad_table) {
  const int64_t count = levels.entries * features;
  MR_GRID_STRIDE(index, total) {
    const int64_t l = index / samples, sample = index - l * samples;
    const GridLevel level = levels.level[l];
    const GridCell<T> cell = grid_cell(level, x + 3 * sample);
    const T faded = sigma == nullptr ? T(1) : fade(sigma[sample], static_cast<T>(level.resolution));
    const FixedPoint fixed = fixed_point(samples, largest[l]);
    const double unit = ldexp(1.0, fixed.bits - fixed.exponent), finer = ldexp(1.0, fixed.bits);
    for (int corner = 0; corner < 8; ++corner) {
      const int k = corner >> 1;
      const bool right = corner & 1;
      const T weight =
          faded * edge_weight(cell, k) * (right ? cell.fraction[0] : T(1) - cell.fraction[0]);
      const int64_t entry = level.offset + (right ? right_of(level, cell.left[k]) : cell.left[k]);
      for (int64_t j = 0; j < features; ++j) {
        const double value = static_cast<double>(weight * grad[(sample * levels.count + l) * features + j]);
        const int64_t at = entry * features + j;
        if (!(value - value == 0)) {
          grad_table[at] = static_cast<T>(NAN);
          continue;
        }
        const double high = rint(value * unit);
        atomicAdd(sums + at, static_cast<unsigned long long>(static_cast<long long>(high)));
        if (sizeof(T) == sizeof(double)) {
          const double low = rint((value * unit - high) * finer);
          atomicAdd(sums + count + at, static_cast<unsigned long long>(static_cast<long long>(low)));
        }
      }
    }
  }
}

// One thread per number of the table.
template <typename T>
__global__ void finish_kernel(int64_t count, GridLevels levels, int64_t samples, int64_t features,
                              const unsigned long long* largest, const unsigned long long* sums, T* grad_table) {
  MR_GRID_STRIDE(at, count) {
    if (grad_table[at] != T(0)) continue;  // NaN
    int64_t l = 0;
    while (l + 1 < levels.count && at >= levels.level[l + 1].offset * features) ++l;
    const FixedPoint fixed = fixed_point(samples, largest[l]);
    double sum = static_cast<double>(static_cast<long long>(sums[at]));
    if (sizeof(T) == sizeof(double)) sum += ldexp(static_cast<double>(static_cast<long long>(sums[count + at])), -fixed.bits);
    grad_table[at] = static_cast<T>(ldexp(sum, fixed.exponent - fixed.bits));
  }
}

}  // namespace

template <typename T>
int grid_encode(void* stream, int64_t samples, int64_t levels, const int64_t* resolutions, int64_t log2_size,
                int64_t features, const T* x, const T* sigma, const T* table, T* out) {
  return launch(stream, forward_kernel<T>, samples * levels, grid_levels(resolutions, levels, log2_size), samples, features,
                x, sigma, table, out);
}

template <typename T>
int grid_encode_backward_table(void* stream, int64_t samples, int64_t levels, const int64_t* resolutions, int64_t log2_size,
                               int64_t features, const T* grad, const T* x, const T* sigma, int64_t* largest_, int64_t* sums_,
                               T* grad_table) {
  const GridLevels all = grid_levels(resolutions, levels, log2_size);
  const int64_t count = all.entries * features;
  auto* largest = reinterpret_cast<unsigned long long*>(largest_);
  auto* sums = reinterpret_cast<unsigned long long*>(sums_);
  int code = clear(stream, largest, levels);
  if (code == 0) code = clear(stream, sums, count * (sizeof(T) == sizeof(double) ? 2 : 1));
  if (code == 0) code = clear(stream, grad_table, count);
  if (code == 0 && samples > 0) {
    code = launch_blocks(stream, largest_kernel<T>, levels * kParts, samples, levels, features, grad, largest);
  }
  if (code == 0) {
    code = launch(stream, add_kernel<T>, samples * levels, all, samples, features, grad, x, sigma, largest, sums, grad_table);
  }
  if (code == 0) code = launch(stream, finish_kernel<T>, count, all, samples, features, largest, sums, grad_table);
  return code;
}

template <typename T>
int grid_encode_backward_inputs(void* stream, int64_t samples, int64_t levels, const int64_t* resolutions, int64_t log2_size,
                                int64_t features, const T* grad, const T* x, const T* sigma, const T* table, T* grad_x,
                                T* grad_sigma) {
  return launch(stream, inputs_kernel<T>, samples, grid_levels(resolutions, levels, log2_size), features, grad, x, sigma,
                table, grad_x, grad_sigma);
}

#define MR_INSTANTIATE(T)                                                                                                   \
  template int grid_encode<T>(void*, int64_t, int64_t, const int64_t*, int64_t, int64_t, const T*, const T*, const T*, T*); \
  template int grid_encode_backward_table<T>(void*, int64_t, int64_t, const int64_t*, int64_t, int64_t, const T*, const T*, \
                                             const T*, int64_t*, int64_t*, T*);                                             \
  template int grid_encode_backward_inputs<T>(void*, int64_t, int64_t, const int64_t*, int64_t, int64_t, const T*,          \
                                              const T*, const T*, const T*, T*, T*);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cuda

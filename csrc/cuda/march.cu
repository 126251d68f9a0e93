// SPDX-License-Identifier: Apache-2.0
#include "march.h"

#include "../core/march.h"
#include "launch.h"

namespace medrecon::cuda {
namespace {

// One thread per coarse cell.
__global__ void coarse_kernel(int64_t total, const uint8_t* bits, int64_t resolution, uint8_t* coarse) {
  const int64_t r = resolution / kCoarse;
  MR_GRID_STRIDE(index, total) {
    coarse[index] = any_occupied(bits, resolution, index % r, index / r % r, index / (r * r));
  }
}

template <typename T, typename Emit>
__device__ int64_t march(const MarchArguments<T>& a, const uint8_t* coarse, int64_t ray, const Emit& emit) {
  const Occupancy grid{a.occupancy, coarse, a.resolution, nullptr, nullptr, a.contract};
  return march_ray(grid, a.origins + 3 * ray, a.directions + 3 * ray, a.near[ray], a.far[ray], a.step, a.cone,
                   a.jitter == nullptr ? T(0) : a.jitter[ray], a.max_samples, emit);
}

struct Nothing {
  template <typename T>
  __device__ void operator()(T, T) const {}
};

template <typename T>
struct Writer {
  int32_t ray;
  int32_t* rays;
  T *t0s, *t1s;
  int64_t* at;

  __device__ void operator()(T t0, T t1) const {
    rays[*at] = ray;
    t0s[*at] = t0;
    t1s[*at] = t1;
    ++*at;
  }
};

// One thread per ray.
template <typename T>
__global__ void count_kernel(int64_t rays, MarchArguments<T> arguments, const uint8_t* coarse, int64_t* counts) {
  MR_GRID_STRIDE(ray, rays) { counts[ray] = march(arguments, coarse, ray, Nothing{}); }
}

template <typename T>
__global__ void write_kernel(int64_t rays, MarchArguments<T> arguments, const uint8_t* coarse, const int64_t* offsets,
                             int32_t* ray_of, T* t0, T* t1) {
  MR_GRID_STRIDE(ray, rays) {
    int64_t at = offsets[ray];
    march(arguments, coarse, ray, Writer<T>{static_cast<int32_t>(ray), ray_of, t0, t1, &at});
  }
}

}  // namespace

int march_coarse(void* stream, const uint8_t* occupancy, int64_t resolution, uint8_t* coarse) {
  const int64_t r = resolution / kCoarse;
  return launch(stream, coarse_kernel, r * r * r, occupancy, resolution, coarse);
}

template <typename T>
int march_count(void* stream, const MarchArguments<T>& arguments, const uint8_t* coarse, int64_t* counts) {
  return launch(stream, count_kernel<T>, arguments.rays, arguments, coarse, counts);
}

template <typename T>
int march_write(void* stream, const MarchArguments<T>& arguments, const uint8_t* coarse, const int64_t* offsets, int32_t* ray,
                T* t0, T* t1) {
  return launch(stream, write_kernel<T>, arguments.rays, arguments, coarse, offsets, ray, t0, t1);
}

#define MR_INSTANTIATE(T)                                                                                              \
  template int march_count<T>(void*, const MarchArguments<T>&, const uint8_t*, int64_t*);                              \
  template int march_write<T>(void*, const MarchArguments<T>&, const uint8_t*, const int64_t*, int32_t*, T*, T*);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cuda

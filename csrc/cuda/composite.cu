// SPDX-License-Identifier: Apache-2.0
// composite on the GPU: a warp per ray, a lane per interval. Sums along a ray have one fixed order.
#include "../core/composite.h"
#include "composite.h"
#include "launch.h"

namespace medrecon::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAll = 0xffffffffu;

template <typename T>
__device__ T sum_of_lanes(T mine) {
  for (int step = kWarp / 2; step > 0; step /= 2) mine += __shfl_xor_sync(kAll, mine, step);
  return mine;
}

template <typename T>
__device__ T largest_of_lanes(T mine) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kAll, mine, step);
    mine = other > mine ? other : mine;
  }
  return mine;
}

// Sum of the lanes up to this one.
template <typename T>
__device__ T running_sum(T mine, int lane) {
  for (int step = 1; step < kWarp; step *= 2) {
    const T other = __shfl_up_sync(kAll, mine, step);
    if (lane >= step) mine += other;
  }
  return mine;
}

// Sum of the lanes from this one on.
template <typename T>
__device__ T remaining_sum(T mine, int lane) {
  for (int step = 1; step < kWarp; step *= 2) {
    const T other = __shfl_down_sync(kAll, mine, step);
    if (lane + step < kWarp) mine += other;
  }
  return mine;
}

// The interval of a lane; one behind the end of the ray has no length and no density.
template <typename T>
struct Place {
  bool inside;
  T t0, t1, length, density;

  __device__ Place(const RaySamples<T>& ray, int64_t i, T norm) : inside(i < ray.count) {
    t0 = inside ? ray.t0[i] : T(0);
    t1 = inside ? ray.t1[i] : T(0);
    length = (t1 - t0) * norm;
    density = inside ? ray.density[i] : T(0);
  }
};

// The optical depth of all intervals before this lane's; `before`, that before the warp's, grows by the warp's.
template <typename T>
__device__ T depth_before(T optical, int lane, T* before) {
  const T upto = running_sum(optical, lane);
  const T others = __shfl_up_sync(kAll, upto, 1);
  const T result = *before + (lane > 0 ? others : T(0));
  *before += __shfl_sync(kAll, upto, kWarp - 1);
  return result;
}

#define MR_RAY_OF_WARP(r, threads)                                                                                   \
  for (int64_t r = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp; r < (threads) / kWarp;      \
       r += static_cast<int64_t>(gridDim.x) * blockDim.x / kWarp)

template <typename T>
__global__ void forward_kernel(int64_t threads, Rays<T> rays, Pixels<T*> out) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  MR_RAY_OF_WARP(r, threads) {
    const RaySamples<T> ray = rays.ray(r);
    const T norm = length_of(rays.directions + 3 * r);
    T before = T(0), opacity = T(0), reach = T(0), colour[3] = {};
    T dark = T(0);  // the light that reaches those intervals which `stop` leaves out
    for (int64_t at = 0; at < ray.count; at += kWarp) {
      const int64_t i = at + lane;
      const Place<T> place(ray, i, norm);
      const T optical = place.density * place.length;
      const T depth = depth_before(optical, lane, &before);
      if (place.inside) {
        const T light = exponential(-depth);
        const T weight = light < rays.stop ? T(0) : -exponential_less_1(-optical) * light;
        if (light < rays.stop && light > dark) dark = light;
        out.weights[ray.first + i] = weight;
        opacity += weight;
        reach += weight * (place.t0 + place.t1);
        for (int c = 0; c < 3; ++c) colour[c] += weight * ray.rgb[3 * i + c];
      }
    }
    opacity = sum_of_lanes(opacity);
    reach = sum_of_lanes(reach);
    for (int c = 0; c < 3; ++c) colour[c] = sum_of_lanes(colour[c]);
    if (rays.stop > T(0)) dark = largest_of_lanes(dark);
    if (lane == 0) {
      const T all_through = exponential(-before), left = dark > all_through ? dark : all_through;
      out.opacity[r] = opacity;
      out.depth[r] = opacity > T(0) ? T(0.5) * reach / opacity : T(0);
      for (int c = 0; c < 3; ++c) out.rgb[3 * r + c] = colour[c] + left * rays.behind(r)[c];
    }
  }
}

// Whether the interval of this lane weighs anything, as far as `stop` is concerned; NaN does.
template <typename T>
__device__ bool lit(const Place<T>& place, int lane, T stop, T* before) {
  const T depth = depth_before(place.density * place.length, lane, before);
  return place.inside && !(exponential(-depth) < stop);
}

template <typename T>
__global__ void backward_kernel(int64_t threads, Rays<T> rays, Pixels<const T*> grad, Pixels<const T*> made,
                                RayGradients<T> out) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const bool fence = rays.offsets == nullptr;
  MR_RAY_OF_WARP(r, threads) {
    const RaySamples<T> ray = rays.ray(r);
    const T* direction = rays.directions + 3 * r;
    const T norm = length_of(direction);

    T before = T(0), optical = T(0);  // of the intervals that weigh anything
    for (int64_t at = 0; at < ray.count; at += kWarp) {
      const Place<T> place(ray, at + lane, norm);
      if (rays.stop > T(0) ? lit(place, lane, rays.stop, &before) : place.inside) optical += place.density * place.length;
    }
    const RayCotangent<T> ct(r, grad, made, rays.behind(r));

    // light that leaves these intervals, sum of G w of those behind them
    const T last = exponential(-sum_of_lanes(optical));
    T left_by = last, behind = T(0);
    T next = T(0), stretch = T(0);  // gradient of the next t0; of the direction's length
    for (int64_t at = (ray.count - 1) / kWarp * kWarp; at >= 0 && ray.count > 0; at -= kWarp) {
      const int64_t i = at + lane, sample = ray.first + i;
      const Place<T> place(ray, i, norm);
      T g = T(0), weight = T(0);
      if (place.inside) {
        weight = made.weights[sample];
        g = ct.of_weight(grad.weights[sample], ray.rgb + 3 * i, place.t0, place.t1);
      }
      const T later = remaining_sum(g * weight, lane), later_weight = remaining_sum(weight, lane);
      const T others = __shfl_down_sync(kAll, later, 1), other_weight = __shfl_down_sync(kAll, later_weight, 1);
      const T after = left_by + (lane + 1 < kWarp ? other_weight : T(0));
      const bool stopped = after + weight < rays.stop;
      const T grad_optical = stopped ? T(0) : g * after + ct.same * last - (behind + (lane + 1 < kWarp ? others : T(0)));
      behind += __shfl_sync(kAll, later, 0);
      left_by += __shfl_sync(kAll, later_weight, 0);

      const T grad_length = grad_optical * place.density, moved = T(0.5) * ct.reach * weight;
      const T grad_t0 = place.inside ? moved - grad_length * norm : T(0), grad_t1 = moved + grad_length * norm;
      const T after_lane = __shfl_down_sync(kAll, grad_t0, 1);
      if (place.inside) {
        stretch += grad_length * (place.t1 - place.t0);
        out.density[sample] = grad_optical * place.length;
        for (int c = 0; c < 3; ++c) out.rgb[3 * sample + c] = weight * ct.rgb[c];
        if (fence) {
          out.t0[sample + r + 1] = grad_t1 + (lane + 1 < kWarp ? after_lane : next);
        } else {
          out.t0[sample] = grad_t0;
          out.t1[sample] = grad_t1;
        }
      }
      next = __shfl_sync(kAll, grad_t0, 0);
    }
    stretch = sum_of_lanes(stretch);
    if (lane == 0) {
      if (fence) out.t0[ray.first + r] = next;
      const T pull = norm == T(0) ? T(0) : stretch / norm;
      for (int c = 0; c < 3; ++c) {
        out.directions[3 * r + c] = pull * direction[c];
        out.background[3 * r + c] = last * ct.rgb[c];
      }
    }
  }
}

}  // namespace

template <typename T>
int composite(void* stream, const Rays<T>& rays, const Pixels<T*>& out) {
  return launch(stream, forward_kernel<T>, rays.rays * kWarp, rays, out);
}

template <typename T>
int composite_backward(void* stream, const Rays<T>& rays, const Pixels<const T*>& grad, const Pixels<const T*>& made,
                       const RayGradients<T>& out) {
  return launch(stream, backward_kernel<T>, rays.rays * kWarp, rays, grad, made, out);
}

#define MR_INSTANTIATE(T)                                                                                      \
  template int composite<T>(void*, const Rays<T>&, const Pixels<T*>&);                                        \
  template int composite_backward<T>(void*, const Rays<T>&, const Pixels<const T*>&, const Pixels<const T*>&, \
                                     const RayGradients<T>&);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)
#undef MR_INSTANTIATE

}  // namespace medrecon::cuda

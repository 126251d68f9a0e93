// SPDX-License-Identifier: Apache-2.0
// The way back through a tile of the fused field; for .cu files only. Rows are in descending order of their samples.
// Gradients of activations overwrite these, those of the network are added to `gradient`, which belongs to the block.
#pragma once

#include "field_tile.h"

namespace medrecon::cuda {

template <typename T>
__device__ T background_of(const FieldTask<T>& task, int64_t ray, int k) {
  return task.background == nullptr ? T(0) : task.background[ray * task.background_stride + k];
}

// dL/dw of a row's weight w, see RayCotangent.
template <typename Engine, typename T>
__device__ T gradient_of_weight(const Tile<Engine>& tile, int row, const T* opacity, const T* depth) {
  const FieldTask<T>& task = tile.task;
  const int64_t ray = tile.ray_of(row);
  T sum = task.grad_weights == nullptr ? T(0) : task.grad_weights[tile.sample[row]];
  if (task.grad_opacity != nullptr) sum += task.grad_opacity[ray];
  if (task.grad_depth != nullptr && opacity[ray] > T(0)) {
    sum += (tile.row_numbers(kMiddle)[row] - depth[ray]) * (task.grad_depth[ray] / opacity[ray]);
  }
  for (int k = 0; k < 3; ++k) {
    sum += task.grad_rgb[3 * ray + k] * (tile.row_numbers(kColour + k)[row] - background_of(task, ray, k));
  }
  return sum;
}

// Fills kGradient. Ends with a barrier.
template <typename Engine, typename T>
__device__ void composite_back(const Tile<Engine>& tile, const T* through, Carried<T>* carried) {
  const FieldTask<T>& task = tile.task;
  T *weights = tile.row_numbers(kSums), *given = tile.row_numbers(kSums + 1), *g = tile.row_numbers(kOptical);
  for (int row = threadIdx.x; row < tile.count; row += blockDim.x) {
    const bool goes_on = row == 0 && tile.ray[0] == carried->ray;
    const T weight = task.weights[tile.sample[row]];
    g[row] = gradient_of_weight(tile, row, task.opacity, task.depth);
    weights[row] = weight + (goes_on ? carried->sums[0] : T(0));
    given[row] = weight * g[row] + (goes_on ? carried->sums[1] : T(0));
  }
  tile.running_sums(kSums, 2);
  for (int row = threadIdx.x; row < tile.plan.rows; row += blockDim.x) {
    T* to = tile.row_numbers(kGradient) + row;
    const int next = tile.plan.rows;
    if (row >= tile.count) {
      to[0] = to[next] = to[2 * next] = to[3 * next] = T(0);
      continue;
    }
    const int64_t ray = tile.ray_of(row);
    const T weight = task.weights[tile.sample[row]];
    const T after = through[ray] + tile.sum_before(row, 0, *carried), behind = tile.sum_before(row, 1, *carried);
    for (int k = 0; k < 3; ++k) {
      const T c = tile.row_numbers(kColour + k)[row];
      to[k * next] = weight * task.grad_rgb[3 * ray + k] * c * (T(1) - c);
    }
    to[3 * next] = tile.row_numbers(kSlope)[row] * (after * g[row] - behind);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const int last = tile.count - 1;
    *carried = {tile.ray[last], {weights[last], given[last]}};
  }
}

// Through the heads and the colour's hidden layer, to that of the trunk's last one. Ends with a barrier.
template <typename Engine, typename T>
__device__ void heads_back(const Tile<Engine>& tile, T* gradient) {
  const TilePlan& plan = tile.plan;
  const FieldShape& s = plan.shape;
  const int last = plan.layers(), colour = plan.real_out(last), width = plan.real_in(last);
  const auto top = tile.layer(last - 1), hues = tile.colour();
  const T* grad = tile.row_numbers(kGradient);
  const T *head = tile.task.parameters + s.head_weight(), *density = tile.task.parameters + s.density_weight();

  for (int job = threadIdx.x; job < 3 * colour + width + 4; job += blockDim.x) {
    const bool of_head = job < 3 * colour, of_density = !of_head && job < 3 * colour + width;
    const int bias = job - 3 * colour - width, k = of_head ? job / colour : (of_density ? 3 : bias);
    const int j = of_head ? job % colour : job - 3 * colour;
    T sum = T(0);
    for (int row = 0; row < tile.count; ++row) {
      const T h = of_head ? number_of(*hues(row, j)) : (of_density ? number_of(*top(row, j)) : T(1));
      sum += grad[k * plan.rows + row] * h;
    }
    const int64_t of_bias = k < 3 ? s.head_bias() + k : s.density_bias();
    gradient[of_head ? s.head_weight() + job : (of_density ? s.density_weight() + j : of_bias)] += sum;
  }
  __syncthreads();

  for (int job = threadIdx.x; job < plan.rows * plan.colour; job += blockDim.x) {
    const int row = job % plan.rows, j = job / plan.rows;
    T sum = T(0);
    if (j < colour && number_of(*hues(row, j)) > T(0)) {
      for (int k = 0; k < 3; ++k) sum += grad[k * plan.rows + row] * head[k * colour + j];
    }
    keep(sum, hues(row, j));
  }
  __syncthreads();

  for (int j = threadIdx.x; j < colour; j += blockDim.x) {
    T sum = T(0);
    for (int row = 0; row < tile.count; ++row) {
      sum += number_of(*hues(row, j));
      if (tile.ends_ray(row)) {
        tile.task.grad_ray_bias[tile.ray_of(row) * colour + j] += sum;
        sum = T(0);
      }
    }
  }
  Engine::multiply(hues.transposed(), top, plan.colour, plan.width, plan.rows, [&](int i, int j, T sum) {
    if (i < colour && j < width) gradient[s.colour_weight() + int64_t{i} * width + j] += sum;
  });
  __syncthreads();

  Engine::multiply(hues, tile.matrix(last), plan.rows, plan.width, plan.colour, [&](int row, int j, T sum) {
    const bool passes = j < width && number_of(*top(row, j)) > T(0);
    keep(passes ? sum + grad[3 * plan.rows + row] * density[j] : T(0), top(row, j));
  });
  __syncthreads();
}

// Through the trunk. Ends with a barrier.
template <typename Engine, typename T>
__device__ void trunk_back(const Tile<Engine>& tile, T* gradient) {
  const TilePlan& plan = tile.plan;
  for (int l = plan.layers() - 1; l >= 0; --l) {
    const auto here = tile.layer(l), from = l == 0 ? tile.encoded() : tile.layer(l - 1);
    const int out = plan.real_out(l), in = plan.real_in(l);
    T *of_weight = gradient + plan.shape.trunk_weight(l), *of_bias = gradient + plan.shape.trunk_bias(l);
    for (int j = threadIdx.x; j < out; j += blockDim.x) {
      T sum = T(0);
      for (int row = 0; row < tile.count; ++row) sum += number_of(*here(row, j));
      of_bias[j] += sum;
    }
    Engine::multiply(here.transposed(), from, plan.width, plan.in(l), plan.rows, [&](int i, int j, T sum) {
      if (i < out && j < in) of_weight[int64_t{i} * in + j] += sum;
    });
    __syncthreads();
    if (l == 0) return;
    Engine::multiply(here, tile.matrix(l), plan.rows, plan.width, plan.width, [&](int row, int j, T sum) {
      keep(number_of(*from(row, j)) > T(0) ? sum : T(0), from(row, j));
    });
    __syncthreads();
  }
}

}  // namespace medrecon::cuda

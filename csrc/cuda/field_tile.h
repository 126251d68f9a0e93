// SPDX-License-Identifier: Apache-2.0
// A tile of the fused field on a GPU: samples of some rays, a row each, whose encoding and activations stay in shared
// memory. For .cu files only. All functions are called by the whole block; where one says so, it ends with a barrier.
#pragma once

#include "../core/encoding.h"
#include "../core/field.h"
#include "../core/frustum.h"
#include "field.h"
#include "multiply.h"

namespace medrecon::cuda {

constexpr int kFieldThreads = 256;
constexpr int kMostRows = 64;
constexpr int kMostFieldLayers = 4;
constexpr int64_t kSharedBytes = 96 * 1024;  // of a tile; every GPU from sm_80 on lets a block have 99 KiB
constexpr unsigned kAllLanes = 0xffffffffu;

MR_HD int64_t round_up_to(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Numbers of a row; kSums has the running sums.
constexpr int kMostSums = 6;
enum RowNumber {
  kVariance,
  kLength = kVariance + 3,
  kMiddle,
  kOptical,  // depth; on the way back the gradient of the weight
  kSlope,    // of the optical depth in the density head's output
  kColour,
  kGradient = kColour + 3,  // of the colour head's outputs and the density head's
  kSums = kGradient + 4,
  kRowNumbers = kSums + kMostSums
};

// How a block lays out its shared memory. Matrices are [out, in] as in nn.Linear, with `pad` numbers behind each row.
struct TilePlan {
  FieldShape shape;
  bool backward, resident;  // all layers' activations are kept; the matrices are in shared memory
  int rows, inputs, width, colour, pad;  // multiples of 16
  int matrix[kMostFieldLayers + 1], packed;  // places of the trunk's and the colour's matrix among the packed numbers
  int number_size, stored_size;

  MR_HD int layers() const { return static_cast<int>(shape.layers); }
  MR_HD int in(int layer) const { return layer == 0 ? inputs : width; }
  MR_HD int out(int layer) const { return layer == layers() ? colour : width; }
  MR_HD int real_in(int layer) const { return static_cast<int>(layer == layers() ? shape.width : shape.inputs(layer)); }
  MR_HD int real_out(int layer) const { return static_cast<int>(layer == layers() ? shape.colour_width : shape.width); }
  MR_HD int64_t place(int layer) const { return layer == layers() ? shape.colour_weight() : shape.trunk_weight(layer); }
  MR_HD int stride(int layer) const { return in(layer) + pad; }
  MR_HD int kept() const { return backward || layers() < 2 ? layers() : 2; }  // hidden layers in memory at a time

  // Bytes of one tile, in this order.
  MR_HD int64_t matrices_bytes() const { return resident ? round_up_to(int64_t{packed} * stored_size, 16) : 0; }
  MR_HD int64_t activations_bytes() const {
    return round_up_to(int64_t{rows} * (inputs + pad + kept() * (width + pad) + colour + pad) * stored_size, 16);
  }
  MR_HD int64_t numbers_bytes() const { return round_up_to(int64_t{rows} * kRowNumbers * number_size, 16); }
  int64_t bytes() const {
    return matrices_bytes() + activations_bytes() + numbers_bytes() + int64_t{rows} * (4 * sizeof(int64_t) + sizeof(int));
  }
};

template <typename Engine>
TilePlan tile_plan(const FieldShape& shape, bool backward) {
  TilePlan plan{};
  plan.shape = shape;
  plan.backward = backward;
  plan.inputs = static_cast<int>(round_up_to(shape.inputs(), 16));
  plan.width = static_cast<int>(round_up_to(shape.width, 16));
  plan.colour = static_cast<int>(round_up_to(shape.colour_width, 16));
  plan.pad = Engine::kPad;
  plan.number_size = sizeof(typename Engine::Number);
  plan.stored_size = sizeof(typename Engine::Stored);
  for (int l = 0; l <= plan.layers(); ++l) {
    plan.matrix[l] = plan.packed;
    plan.packed += plan.out(l) * plan.stride(l);
  }
  for (plan.rows = kMostRows; plan.rows > 16; plan.rows /= 2) {
    for (const bool resident : {true, false}) {
      plan.resident = resident;
      if (plan.bytes() <= kSharedBytes) return plan;
    }
  }
  return plan;
}

// The samples of a block's rays, taken in order or from the last to the first.
struct Walk {
  int64_t first, count, next;
  bool back;

  __device__ int64_t sample(int64_t step) const { return back ? first + count - 1 - step : first + step; }
};

// Running sums go on from tile to tile where a ray does.
template <typename T>
struct Carried {
  int ray;
  T sums[2];
};

template <typename Engine>
struct Tile {
  using T = typename Engine::Number;
  using S = typename Engine::Stored;

  const TilePlan& plan;
  const FieldTask<T>& task;
  S *matrices, *x, *hidden, *colours;
  T* numbers;        // [kRowNumbers][rows]
  int64_t* sample;   // [rows]; -1: an empty row
  double* mean;      // [3][rows]
  int* ray;          // [rows], counted from the block's first; -1: an empty row
  int64_t first_ray;
  int count;         // rows that are not empty

  __device__ Tile(const TilePlan& plan_, const FieldTask<T>& task_, S* packed, int4* memory, int64_t first_ray_)
      : plan(plan_), task(task_), first_ray(first_ray_), count(0) {
    char* at = reinterpret_cast<char*>(memory);
    matrices = plan.resident ? reinterpret_cast<S*>(at) : packed;
    if (plan.resident) {
      const int4* from = reinterpret_cast<const int4*>(packed);
      for (int i = threadIdx.x; i < plan.matrices_bytes() / 16; i += blockDim.x) memory[i] = from[i];
    }
    x = reinterpret_cast<S*>(at += plan.matrices_bytes());
    hidden = x + plan.rows * (plan.inputs + plan.pad);
    colours = hidden + plan.kept() * plan.rows * (plan.width + plan.pad);
    numbers = reinterpret_cast<T*>(at += plan.activations_bytes());
    sample = reinterpret_cast<int64_t*>(at += plan.numbers_bytes());
    mean = reinterpret_cast<double*>(sample + plan.rows);
    ray = reinterpret_cast<int*>(mean + 3 * plan.rows);
    for (int i = threadIdx.x; i < plan.rows * (plan.inputs + plan.pad); i += blockDim.x) keep(T(0), x + i);
  }

  __device__ T* row_numbers(int which) const { return numbers + which * plan.rows; }
  __device__ Matrix<S> encoded() const { return {x, plan.inputs + plan.pad}; }
  __device__ Matrix<S> layer(int l) const {
    return {hidden + l % plan.kept() * plan.rows * (plan.width + plan.pad), plan.width + plan.pad};
  }
  __device__ Matrix<S> colour() const { return {colours, plan.colour + plan.pad}; }
  __device__ Matrix<S> matrix(int l) const { return {matrices + plan.matrix[l], plan.stride(l)}; }
  __device__ int64_t ray_of(int row) const { return first_ray + ray[row]; }

  // Fills `sample` with the next samples that are not masked. Ends with a barrier, unless there are none.
  __device__ void take(Walk* walk) {
    if (task.mask == nullptr) {
      const int64_t left = walk->count - walk->next;
      count = static_cast<int>(left < plan.rows ? left : plan.rows);
      for (int row = threadIdx.x; row < plan.rows; row += blockDim.x) {
        sample[row] = row < count ? walk->sample(walk->next + row) : -1;
      }
      walk->next += count;
      __syncthreads();
      return;
    }
    __shared__ int in_warp[kFieldThreads / kLanes];
    __shared__ int64_t behind_last;
    const int warp = threadIdx.x / kLanes;
    count = 0;
    for (int row = threadIdx.x; row < plan.rows; row += blockDim.x) sample[row] = -1;
    while (count < plan.rows && walk->next < walk->count) {
      const int64_t step = walk->next + threadIdx.x;
      const bool wanted = step < walk->count && task.mask[walk->sample(step)];
      const unsigned lanes = __ballot_sync(kAllLanes, wanted);
      if (threadIdx.x % kLanes == 0) in_warp[warp] = __popc(lanes);
      __syncthreads();
      int row = count + __popc(lanes & ((1u << threadIdx.x % kLanes) - 1)), all = count;
      for (int w = 0; w < static_cast<int>(blockDim.x) / kLanes; ++w) {
        if (w < warp) row += in_warp[w];
        all += in_warp[w];
      }
      if (wanted && row < plan.rows) {
        sample[row] = walk->sample(step);
        if (row == plan.rows - 1) behind_last = step + 1;
      }
      __syncthreads();
      const bool full = all >= plan.rows;
      walk->next = full ? behind_last : walk->next + blockDim.x;
      count = full ? plan.rows : all;
    }
  }

  // Gaussians of the rows and what compositing needs of their intervals. Ends with a barrier.
  __device__ void place() {
    for (int row = threadIdx.x; row < plan.rows; row += blockDim.x) {
      const int64_t at = sample[row];
      ray[row] = at < 0 ? -1 : static_cast<int>(at / task.samples - first_ray);
      double middle[3] = {}, var[3] = {};
      if (at >= 0) {
        const int64_t r = ray_of(row);
        const T *edge = task.t + at + r, *towards = task.directions + 3 * r, *from = task.origins + 3 * r;
        const double origin[3] = {from[0], from[1], from[2]}, direction[3] = {towards[0], towards[1], towards[2]};
        frustum_gaussian<double>(edge[0], edge[1], origin, direction, task.radii[r], middle, var);
        const double norm =
            sqrt(direction[0] * direction[0] + direction[1] * direction[1] + direction[2] * direction[2]);
        row_numbers(kLength)[row] = (edge[1] - edge[0]) * static_cast<T>(norm);
        row_numbers(kMiddle)[row] = T(0.5) * (edge[0] + edge[1]);
      }
      for (int j = 0; j < 3; ++j) {
        mean[j * plan.rows + row] = middle[j];
        row_numbers(kVariance + j)[row] = static_cast<T>(var[j]);
      }
    }
    __syncthreads();
  }

  // Ends with a barrier.
  __device__ void encode() {
    const int degrees = static_cast<int>(plan.shape.degrees), octaves = 3 * degrees;
    for (int job = threadIdx.x; job < octaves * plan.rows; job += blockDim.x) {
      const int row = job % plan.rows, column = job / plan.rows, k = column / 3, j = column - 3 * k;
      T sine = T(0), cosine = T(0);
      if (sample[row] >= 0) {
        const double middle = mean[j * plan.rows + row];
        const T var = row_numbers(kVariance + j)[row];
        encode_exactly(middle, var, power_of_two<T>(plan.shape.min_deg + k), &sine, &cosine);
      }
      S* to = x + row * (plan.inputs + plan.pad);
      keep(sine, to + sine_index(k, j, 3));
      keep(cosine, to + cosine_index(k, j, 3, degrees));
    }
    __syncthreads();
  }

  // The trunk's and the colour's hidden layers. Ends with a barrier.
  __device__ void apply_layers() {
    for (int l = 0; l <= plan.layers(); ++l) {
      const bool last = l == plan.layers();
      const Matrix<S> from = l == 0 ? encoded() : layer(l - 1), to = last ? colour() : layer(l);
      const T* bias = last ? nullptr : task.parameters + plan.shape.trunk_bias(l);
      const int real = plan.real_out(l);
      Engine::multiply(from, matrix(l).transposed(), plan.rows, plan.out(l), plan.in(l), [&](int row, int column, T sum) {
        if (column < real) {
          if (!last) sum += bias[column];
          if (last && ray[row] >= 0) sum += task.ray_bias[ray_of(row) * real + column];
        }
        keep(sum < T(0) ? T(0) : sum, to(row, column));  // NaN stays
      });
      __syncthreads();
    }
  }

  // Colours (0..1), optical depths and their slopes. Ends with a barrier.
  __device__ void apply_heads() {
    const FieldShape& s = plan.shape;
    const Matrix<S> top = layer(plan.layers() - 1), hues = colour();
    for (int job = threadIdx.x; job < 4 * plan.rows; job += blockDim.x) {
      const int row = job % plan.rows, k = job / plan.rows;
      const int n = static_cast<int>(k < 3 ? s.colour_width : s.width);
      const S* h = k < 3 ? hues(row, 0) : top(row, 0);
      const T* weight = task.parameters + (k < 3 ? s.head_weight() + k * n : s.density_weight());
      T sum = task.parameters[k < 3 ? s.head_bias() + k : s.density_bias()];
      for (int j = 0; j < n; ++j) sum += weight[j] * number_of(h[j]);
      if (k < 3) {
        row_numbers(kColour + k)[row] = T(1) / (T(1) + exponential(-sum));
      } else if (sample[row] >= 0) {
        const T raw = sum + static_cast<T>(s.density_shift), e = exponential(raw < T(0) ? raw : -raw);
        const T size = static_cast<T>(s.density_gain) * row_numbers(kLength)[row];
        row_numbers(kOptical)[row] = size * ((raw < T(0) ? T(0) : raw) + std::log1p(e));
        row_numbers(kSlope)[row] = size * (raw < T(0) ? e : T(1)) / (T(1) + e);
      }
    }
    __syncthreads();
  }

  __device__ bool same_ray(int row, int other) const { return ray[row] == ray[other]; }
  __device__ bool ends_ray(int row) const { return row + 1 == count || !same_ray(row, row + 1); }

  // Sums of `arrays` row numbers from `which` on, over the rows of each ray up to each row. Begins and ends with a barrier.
  __device__ void running_sums(int which, int arrays) const {
    constexpr int kItems = (kMostRows * kMostSums + kFieldThreads - 1) / kFieldThreads;
    T* values = row_numbers(which);
    __syncthreads();
    for (int step = 1; step < plan.rows; step *= 2) {
      T others[kItems];
      for (int k = 0; k < kItems; ++k) {
        const int at = threadIdx.x + k * kFieldThreads, row = at % plan.rows;
        others[k] = at < plan.rows * arrays && row >= step && same_ray(row, row - step) ? values[at - step] : T(0);
      }
      __syncthreads();
      for (int k = 0; k < kItems; ++k) {
        const int at = threadIdx.x + k * kFieldThreads;
        if (at < plan.rows * arrays) values[at] += others[k];
      }
      __syncthreads();
    }
  }

  // The running sum of all rows of the ray before this one.
  __device__ T sum_before(int row, int k, const Carried<T>& carried) const {
    if (row > 0) return same_ray(row, row - 1) ? row_numbers(kSums + k)[row - 1] : T(0);
    return ray[row] == carried.ray ? carried.sums[k] : T(0);
  }

 private:
  // A float's high octaves need more of the angle than a float has: whole turns are taken off in double.
  __device__ static void encode_exactly(double middle, float var, float scale, float* sine, float* cosine) {
    const float exponent = -0.5f * scale * scale * (var + 0.f * static_cast<float>(middle));  // NaN of infinity too
    if (exponent < -17.f) return;  // cannot be seen beside 1
    const double turns = middle * static_cast<double>(scale) * 0.15915494309189533577;
    const float half_turns = 2.f * static_cast<float>(turns - rint(turns)), damping = exponential(exponent);
#if defined(__CUDA_ARCH__)
    sincospif(half_turns, sine, cosine);
#else
    *sine = static_cast<float>(std::sin(3.14159265358979323846 * half_turns));
    *cosine = static_cast<float>(std::cos(3.14159265358979323846 * half_turns));
#endif
    *sine *= damping;
    *cosine *= damping;
  }

  __device__ static void encode_exactly(double middle, double var, double scale, double* sine, double* cosine) {
    encode_gaussian(middle, var, scale, sine, cosine);
  }
};

}  // namespace medrecon::cuda

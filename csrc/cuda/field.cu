// SPDX-License-Identifier: Apache-2.0
// The fused field on a GPU: a block walks over the samples of its rays, tile by tile. The way back walks from the last sample
// to the first and computes each tile anew. Gradients of the network are summed by each block for itself, and those sums,
// whose number depends on the number of rays alone, in one order.
#include "field.h"

#include <type_traits>

#include "../core/composite.h"
#include "field_back.h"
#include "launch.h"

namespace medrecon::cuda {
namespace {

constexpr int64_t kParts = 256;  // blocks, and so sums of gradients, at the most

inline int64_t parts_of(int64_t rays) { return rays < kParts ? rays : kParts; }

// What is kept between the kernels; of what the caller has room for, nothing.
template <typename Engine>
struct Work {
  using T = typename Engine::Number;
  typename Engine::Stored* packed;     // the matrices, padded
  T* through;                          // [rays] light that leaves each ray
  T *rgb, *depth, *opacity, *weights;  // as in FieldTask
  T* grad_rgb;                         // [rays, 3] of the squared error
  T* partial;                          // [parts, parameters]
  double* losses;                      // [parts]
  int64_t bytes;

  Work(const TilePlan& plan, const FieldTask<T>& task, void* memory) : bytes(0) {
    const int64_t sums = task.grad_parameters == nullptr ? 0 : parts_of(task.rays);
    take(&packed, plan.packed, memory);
    take(&through, task.rays, memory);
    take(&rgb, task.rgb == nullptr ? 3 * task.rays : 0, memory);
    take(&depth, task.depth == nullptr ? task.rays : 0, memory);
    take(&opacity, task.opacity == nullptr ? task.rays : 0, memory);
    take(&weights, task.weights == nullptr ? task.rays * task.samples : 0, memory);
    take(&grad_rgb, task.target == nullptr ? 0 : 3 * task.rays, memory);
    take(&partial, sums * plan.shape.parameters(), memory);
    take(&losses, sums, memory);
  }

  template <typename P>
  void take(P** to, int64_t count, void* memory) {
    *to = memory == nullptr ? nullptr : reinterpret_cast<P*>(static_cast<char*>(memory) + bytes);
    bytes += round_up_to(count * static_cast<int64_t>(sizeof(P)), 16);
  }
};

template <typename Engine>
__global__ void pack_kernel(int64_t total, TilePlan plan, const typename Engine::Number* parameters,
                            typename Engine::Stored* packed) {
  using T = typename Engine::Number;
  MR_GRID_STRIDE(index, total) {
    int l = plan.layers();
    while (index < plan.matrix[l]) --l;
    const int at = static_cast<int>(index) - plan.matrix[l], row = at / plan.stride(l), column = at % plan.stride(l);
    const bool real = row < plan.real_out(l) && column < plan.real_in(l);
    keep(real ? parameters[plan.place(l) + int64_t{row} * plan.real_in(l) + column] : T(0), packed + index);
  }
}

// Weights of a tile's rows, and what their rays see of them. Ends with a barrier.
template <typename Engine, typename T>
__device__ void composite_tile(const Tile<Engine>& tile, T* through, Carried<T>* carried) {
  const FieldTask<T>& task = tile.task;
  T *sums = tile.row_numbers(kSums), *optical = tile.row_numbers(kOptical);
  const auto seen = [&](int k, int row) -> T& { return tile.row_numbers(kSums + 1 + k)[row]; };
  for (int row = threadIdx.x; row < tile.count; row += blockDim.x) {
    sums[row] = optical[row] + (row == 0 && tile.ray[0] == carried->ray ? carried->sums[0] : T(0));
  }
  tile.running_sums(kSums, 1);
  for (int row = threadIdx.x; row < tile.count; row += blockDim.x) {
    const T weight = -exponential_less_1(-optical[row]) * exponential(-tile.sum_before(row, 0, *carried));
    task.weights[tile.sample[row]] = weight;
    for (int k = 0; k < 3; ++k) seen(k, row) = weight * tile.row_numbers(kColour + k)[row];
    seen(3, row) = weight;
    seen(4, row) = weight * tile.row_numbers(kMiddle)[row];
  }
  tile.running_sums(kSums + 1, 5);
  for (int row = threadIdx.x; row < tile.count; row += blockDim.x) {
    if (!tile.ends_ray(row)) continue;
    const int64_t ray = tile.ray_of(row);
    for (int k = 0; k < 3; ++k) task.rgb[3 * ray + k] += seen(k, row);
    task.opacity[ray] += seen(3, row);
    task.depth[ray] += seen(4, row);
    through[ray] = exponential(-sums[row]);
    if (row + 1 == tile.count) *carried = {tile.ray[row], {sums[row], T(0)}};
  }
  __syncthreads();
}

// The next tile's rows, up to the heads' outputs; false where there are none left.
template <typename Engine>
__device__ bool next_tile(Tile<Engine>* tile, Walk* walk) {
  if (walk->next >= walk->count) return false;
  tile->take(walk);
  if (tile->count == 0) return false;
  tile->place();
  tile->encode();
  tile->apply_layers();
  tile->apply_heads();
  return true;
}

template <typename Engine>
__global__ void __launch_bounds__(kFieldThreads, Engine::kBlocks)
    forward_kernel(const __grid_constant__ TilePlan plan, const __grid_constant__ FieldTask<typename Engine::Number> task,
                   typename Engine::Stored* packed, typename Engine::Number* through) {
  using T = typename Engine::Number;
  extern __shared__ int4 memory[];
  __shared__ Carried<T> carried;
  const int64_t begin = task.rays * blockIdx.x / gridDim.x, end = task.rays * (blockIdx.x + 1) / gridDim.x;
  for (int64_t ray = begin + threadIdx.x; ray < end; ray += blockDim.x) {
    for (int k = 0; k < 3; ++k) task.rgb[3 * ray + k] = T(0);
    task.depth[ray] = task.opacity[ray] = T(0);
    through[ray] = T(1);
  }
  if (task.mask != nullptr) {
    for (int64_t i = begin * task.samples + threadIdx.x; i < end * task.samples; i += blockDim.x) task.weights[i] = T(0);
  }
  if (threadIdx.x == 0) carried.ray = -2;
  Tile<Engine> tile(plan, task, packed, memory, begin);
  Walk walk{begin * task.samples, (end - begin) * task.samples, 0, false};
  while (next_tile(&tile, &walk)) composite_tile(tile, through, &carried);
  for (int64_t ray = begin + threadIdx.x; ray < end; ray += blockDim.x) {
    const T seen = task.opacity[ray];
    task.depth[ray] = seen > T(0) ? task.depth[ray] / seen : T(0);
    for (int k = 0; k < 3; ++k) task.rgb[3 * ray + k] += through[ray] * background_of(task, ray, k);
  }
}

// The squared error of a block's rays, and its gradients.
template <typename T>
__device__ double squared_error(const FieldTask<T>& task, int64_t begin, int64_t end, T* grad_rgb) {
  __shared__ double errors[kFieldThreads];
  double error = 0;
  for (int64_t ray = begin + threadIdx.x; ray < end; ray += blockDim.x) {
    double squares = 0;
    for (int k = 0; k < 3; ++k) {
      const T difference = task.rgb[3 * ray + k] - task.target[3 * ray + k];
      squares += static_cast<double>(difference) * difference;
      grad_rgb[3 * ray + k] = task.ray_weight[ray] * T(2.0 / 3.0) * difference;
    }
    error += task.ray_weight[ray] * squares / 3;
  }
  errors[threadIdx.x] = error;
  for (int half = kFieldThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) errors[threadIdx.x] += errors[threadIdx.x + half];
  }
  return errors[0];  // of the first thread
}

template <typename Engine>
__global__ void __launch_bounds__(kFieldThreads, Engine::kBlocks)
    backward_kernel(const __grid_constant__ TilePlan plan, const __grid_constant__ FieldTask<typename Engine::Number> task,
                    Work<Engine> work) {
  using T = typename Engine::Number;
  extern __shared__ int4 memory[];
  __shared__ Carried<T> carried;
  const int64_t begin = task.rays * blockIdx.x / gridDim.x, end = task.rays * (blockIdx.x + 1) / gridDim.x;
  const int64_t parameters = plan.shape.parameters(), colour = plan.shape.colour_width;
  T* gradient = work.partial + blockIdx.x * parameters;
  for (int64_t i = threadIdx.x; i < parameters; i += blockDim.x) gradient[i] = T(0);
  for (int64_t i = begin * colour + threadIdx.x; i < end * colour; i += blockDim.x) task.grad_ray_bias[i] = T(0);
  if (task.target != nullptr) {
    const double error = squared_error(task, begin, end, work.grad_rgb);
    if (threadIdx.x == 0) work.losses[blockIdx.x] = error;
  }
  if (threadIdx.x == 0) carried.ray = -2;
  Tile<Engine> tile(plan, task, work.packed, memory, begin);
  Walk walk{begin * task.samples, (end - begin) * task.samples, 0, true};
  __syncthreads();
  if (task.grad_background != nullptr) {
    for (int64_t i = 3 * begin + threadIdx.x; i < 3 * end; i += blockDim.x) {
      task.grad_background[i] = (T(1) - task.opacity[i / 3]) * task.grad_rgb[i];
    }
  }
  while (next_tile(&tile, &walk)) {
    composite_back(tile, work.through, &carried);
    heads_back(tile, gradient);
    trunk_back(tile, gradient);
  }
}

// Sums the blocks' gradients and, as the last number, their losses.
template <typename T>
__global__ void sum_kernel(int64_t total, int64_t parts, const T* partial, const double* losses, T* gradient, T* loss) {
  MR_GRID_STRIDE(index, total) {
    const bool of_loss = index == total - 1;
    if (of_loss && loss == nullptr) continue;
    double sum = 0;
    for (int64_t p = 0; p < parts; ++p) sum += of_loss ? losses[p] : static_cast<double>(partial[p * (total - 1) + index]);
    *(of_loss ? loss : gradient + index) = static_cast<T>(sum);
  }
}

template <typename Kernel, typename... Arguments>
int launch_tiles(void* stream, Kernel kernel, int64_t blocks, const TilePlan& plan, Arguments... arguments) {
  const int bytes = static_cast<int>(plan.bytes());
  const int code = static_cast<int>(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  if (code != 0) return code;
  kernel<<<static_cast<unsigned>(blocks), kFieldThreads, bytes, static_cast<cudaStream_t>(stream)>>>(plan, arguments...);
  return static_cast<int>(cudaGetLastError());
}

template <typename Engine, typename T>
int run(void* stream, const FieldShape& shape, FieldTask<T> task, void* memory) {
  const TilePlan ahead = tile_plan<Engine>(shape, false), back = tile_plan<Engine>(shape, true);
  const Work<Engine> work(ahead, task, memory);
  const bool differentiate = task.grad_parameters != nullptr;
  const int64_t parts = parts_of(task.rays);
  if (task.rgb == nullptr) task.rgb = work.rgb;
  if (task.depth == nullptr) task.depth = work.depth;
  if (task.opacity == nullptr) task.opacity = work.opacity;
  if (task.weights == nullptr) task.weights = work.weights;
  if (task.target != nullptr) task.grad_rgb = work.grad_rgb;
  int code = 0;
  if (parts > 0) {
    code = launch(stream, pack_kernel<Engine>, ahead.packed, ahead, task.parameters, work.packed);
    if (code == 0) code = launch_tiles(stream, forward_kernel<Engine>, parts, ahead, task, work.packed, work.through);
    if (code == 0 && differentiate) code = launch_tiles(stream, backward_kernel<Engine>, parts, back, task, work);
  }
  if (code == 0 && differentiate) {
    code = launch(stream, sum_kernel<T>, shape.parameters() + 1, parts, work.partial, work.losses, task.grad_parameters,
                  task.loss);
  }
  return code;
}

template <typename Engine, typename T>
int64_t work_size(const FieldShape& shape, const FieldTask<T>& task) {
  return Work<Engine>(tile_plan<Engine>(shape, false), task, nullptr).bytes;
}

}  // namespace

template <>
int64_t field_work_size(const FieldShape& shape, const FieldTask<float>& task, FieldPrecision precision) {
  switch (precision) {
    case FieldPrecision::kBf16:
      return work_size<Bf16>(shape, task);
    case FieldPrecision::kTf32:
      return work_size<Tf32>(shape, task);
    default:
      return work_size<Exact<float>>(shape, task);
  }
}

template <>
int64_t field_work_size(const FieldShape& shape, const FieldTask<double>& task, FieldPrecision) {
  return work_size<Exact<double>>(shape, task);
}

template <>
int fused_field(void* stream, const FieldShape& shape, const FieldTask<float>& task, FieldPrecision precision, void* work) {
  switch (precision) {
    case FieldPrecision::kBf16:
      return run<Bf16>(stream, shape, task, work);
    case FieldPrecision::kTf32:
      return run<Tf32>(stream, shape, task, work);
    default:
      return run<Exact<float>>(stream, shape, task, work);
  }
}

template <>
int fused_field(void* stream, const FieldShape& shape, const FieldTask<double>& task, FieldPrecision, void* work) {
  return run<Exact<double>>(stream, shape, task, work);
}

}  // namespace medrecon::cuda

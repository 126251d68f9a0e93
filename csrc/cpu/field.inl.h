// SPDX-License-Identifier: Apache-2.0
// One chunk of the rays of a fused field, tile by tile: encode, multiply, composite, and the way back through the activations
// that are still in the cache. Included once per instruction set, after vector.inl.h.

#include "gemm.inl.h"

#include "field_layers.inl.h"

#include "field_encode.inl.h"
#include "field_render.inl.h"

// Work space of a tile, carved from one block of memory.
template <typename T>
struct Tile {
  T *x, *trunk[kMostLayers], *colour, *bias;
  Gaussians<T> gaussians;
  Samples<T> samples;
  T *length, *middle, *grad_weight, *scale, *fading;
  double* moments;
  int32_t *sample, *ray, *used;
  int64_t* first;  // row of each ray, and one more

  // The size in numbers of T; nothing is written when `memory` is null.
  int64_t carve(const FieldPlan& plan, T* memory) {
    int64_t at = 0;
    const auto take = [&](int64_t count) {
      T* here = memory == nullptr ? nullptr : memory + at;
      at += round_up(count, 64);
      return here;
    };
    x = take(plan.space * 2 * plan.half);
    for (int64_t i = 0; i < plan.shape.layers; ++i) trunk[i] = take(plan.space * plan.width);
    colour = take(plan.space * plan.colour);
    bias = take(plan.rays * plan.colour);
    for (int j = 0; j < 3; ++j) {
      gaussians.mean[j] = take(plan.space);
      gaussians.rest[j] = take(plan.space);
      gaussians.var[j] = take(plan.space);
      samples.colour[j] = take(plan.space);
    }
    for (int j = 0; j < 4; ++j) samples.grad[j] = take(plan.space);
    samples.optical = take(plan.space);
    samples.slope = take(plan.space);
    samples.weight = take(plan.space);
    length = take(plan.space);
    middle = take(plan.space);
    grad_weight = take(plan.space);
    scale = take(plan.half);
    fading = take(plan.half);
    moments = reinterpret_cast<double*>(take(3 * plan.samples * 2));
    sample = reinterpret_cast<int32_t*>(take(plan.space));
    ray = reinterpret_cast<int32_t*>(take(plan.space));
    used = reinterpret_cast<int32_t*>(take(plan.space));
    first = reinterpret_cast<int64_t*>(take(2 * (plan.rays + 1)));
    return at;
  }
};

template <typename T>
struct Chunk {
  const FieldPlan& plan;
  const FieldTask<T>& task;
  const T* network;
  Tile<T> tile;
  T* gradient;
  double loss = 0;

  // As many rays from `begin` on as fit, their intervals that are not masked as rows. Returns the ray after the last.
  int64_t place(int64_t begin, int64_t end, int64_t* count) {
    const int64_t samples = plan.samples;
    int64_t rows = 0, ray = begin;
    for (; ray < end && ray - begin < plan.rays && rows + samples <= plan.rows; ++ray) {
      const T *t = task.t + ray * (samples + 1), *direction = task.directions + 3 * ray;
      const bool* mask = task.mask == nullptr ? nullptr : task.mask + ray * samples;
      const int64_t local = ray - begin, before = rows;
      tile.first[local] = rows;
      const T size = std::sqrt(direction[0] * direction[0] + direction[1] * direction[1] + direction[2] * direction[2]);
      for (int64_t i = 0; i < samples; ++i) {
        if (mask != nullptr && !mask[i]) continue;
        tile.sample[rows] = static_cast<int32_t>(i);
        tile.ray[rows] = static_cast<int32_t>(local);
        tile.length[rows] = (t[i + 1] - t[i]) * size;
        tile.middle[rows] = (t[i] + t[i + 1]) * T(0.5);
        ++rows;
      }
      if (rows == before) continue;
      place_gaussians(t, task.origins + 3 * ray, direction, task.radii[ray], tile.sample + before, rows - before, tile.moments,
                      samples, tile.gaussians, before);
      const T* bias = task.ray_bias + ray * plan.shape.colour_width;
      std::copy_n(bias, plan.shape.colour_width, tile.bias + local * plan.colour);
      std::fill(tile.bias + local * plan.colour + plan.shape.colour_width, tile.bias + (local + 1) * plan.colour, T(0));
    }
    tile.first[ray - begin] = rows;
    *count = rows;
    return ray;
  }

  void forward(int64_t rows) {
    const int64_t padded = round_up(rows, kBlock);
    for (int64_t i = rows; i < padded; ++i) {
      tile.ray[i] = 0;
      std::fill(tile.x + i * 2 * plan.half, tile.x + (i + 1) * 2 * plan.half, T(0));
    }
    encode_rows(plan, tile.gaussians, rows, Octaves<T>{tile.scale, tile.fading}, tile.used, tile.x);
    const FieldShape& s = plan.shape;
    const Encoded<T> encoded{tile.x, plan.half, 3 * s.degrees, tile.used};
    multiply(encoded, network + plan.trunk[0], s.inputs(), padded, plan.width, tile.trunk[0], plan.width,
             BiasThenRelu<T>{network + plan.trunk_bias[0]});
    for (int64_t l = 1; l < s.layers; ++l) {
      multiply(Dense<T>{tile.trunk[l - 1], plan.width, s.width}, network + plan.trunk[l], s.width, padded, plan.width,
               tile.trunk[l], plan.width, BiasThenRelu<T>{network + plan.trunk_bias[l]});
    }
    const T* top = tile.trunk[s.layers - 1];
    multiply(Dense<T>{top, plan.width, s.width}, network + plan.colour_weight, s.width, padded, plan.colour, tile.colour,
             plan.colour, RayBiasThenRelu<T>{tile.bias, plan.colour, tile.ray});
    apply_heads(plan, network, top, tile.colour, rows, tile.samples);
    activate(plan, rows, tile.length, tile.samples);
  }

  // Outputs of the ray at rows [begin, end) and, where wanted, the gradients of these rows' heads.
  void render(int64_t ray, int64_t begin, int64_t end) {
    const Samples<T>& s = tile.samples;
    weigh(begin, end, s);
    const T* background = task.background == nullptr ? nullptr : task.background + ray * task.background_stride;
    const Pixel<T> pixel = gather(begin, end, tile.middle, background, s);
    if (task.rgb != nullptr) std::copy_n(pixel.rgb, 3, task.rgb + 3 * ray);
    if (task.depth != nullptr) task.depth[ray] = pixel.depth;
    if (task.opacity != nullptr) task.opacity[ray] = pixel.opacity;
    if (task.weights != nullptr) {
      T* weights = task.weights + ray * plan.samples;
      std::fill(weights, weights + plan.samples, T(0));
      for (int64_t i = begin; i < end; ++i) weights[tile.sample[i]] = s.weight[i];
    }
    if (gradient == nullptr) return;

    Pixel<T> grad{};
    const T* grad_weight = nullptr;
    if (task.target != nullptr) {
      double error = 0;
      for (int k = 0; k < 3; ++k) {
        const T difference = pixel.rgb[k] - task.target[3 * ray + k];
        error += static_cast<double>(difference) * difference;
        grad.rgb[k] = task.ray_weight[ray] * T(2.0 / 3.0) * difference;
      }
      loss += task.ray_weight[ray] * error / 3;
    } else {
      std::copy_n(task.grad_rgb + 3 * ray, 3, grad.rgb);
      grad.depth = task.grad_depth[ray];
      grad.opacity = task.grad_opacity[ray];
      const T* given = task.grad_weights + ray * plan.samples;
      for (int64_t i = begin; i < end; ++i) tile.grad_weight[i] = given[tile.sample[i]];
      grad_weight = tile.grad_weight;
    }
    if (task.grad_background != nullptr) {
      for (int k = 0; k < 3; ++k) task.grad_background[3 * ray + k] = (T(1) - pixel.opacity) * grad.rgb[k];
    }
    scatter(begin, end, pixel, grad, grad_weight, tile.middle, background, s);
  }

  // Back through the colour head and its ReLU, in place; the sums along each ray are the gradient of ray_bias.
  void back_through_head(int64_t ray, int64_t begin, int64_t end) {
    T *const *d = tile.samples.grad, *grad_bias = task.grad_ray_bias + ray * plan.shape.colour_width;
    for (int64_t j = 0; j < plan.colour; j += kLanes<T>) {
      const T* head = network + plan.head + j;
      T* grad_head = gradient + plan.head + j;
      Vec<T> w[3], g[3], total = splat(T(0));
      for (int k = 0; k < 3; ++k) {
        w[k] = load(head + k * plan.colour);
        g[k] = load(grad_head + k * plan.colour);
      }
      for (int64_t i = begin; i < end; ++i) {
        T* at = tile.colour + i * plan.colour + j;
        const Vec<T> c = load(at), d0 = splat(d[0][i]), d1 = splat(d[1][i]), d2 = splat(d[2][i]);
        g[0] = fma(c, d0, g[0]);
        g[1] = fma(c, d1, g[1]);
        g[2] = fma(c, d2, g[2]);
        const Vec<T> back = select(c > splat(T(0)), fma(d2, w[2], fma(d1, w[1], d0 * w[0])), splat(T(0)));
        store(at, back);
        total = total + back;
      }
      for (int k = 0; k < 3; ++k) store(grad_head + k * plan.colour, g[k]);
      const int64_t left = plan.shape.colour_width - j;
      store_part(grad_bias + j, total, left < kLanes<T> ? left : kLanes<T>);
    }
  }

  void backward(int64_t rows) {
    const FieldShape& s = plan.shape;
    const int64_t padded = round_up(rows, kBlock), last = s.layers - 1;
    T *const *d = tile.samples.grad, *top = tile.trunk[last];
    for (int k = 0; k < 4; ++k) {
      T total = T(0);
      for (int64_t i = 0; i < rows; ++i) total += d[k][i];
      gradient[plan.scalars + k] += total;
    }
    // Rows of padding must add nothing.
    std::fill(tile.colour + rows * plan.colour, tile.colour + padded * plan.colour, T(0));
    std::fill(d[3] + rows, d[3] + padded, T(0));

    add_outer(top, plan.width, s.width, tile.colour, plan.colour, plan.colour, rows, nullptr, gradient + plan.colour_weight,
              s.width, 0);
    for (int64_t j = 0; j < plan.width; j += kLanes<T>) {
      Vec<T> total = load(gradient + plan.density + j);
      for (int64_t i = 0; i < rows; ++i) total = fma(load(top + i * plan.width + j), splat(d[3][i]), total);
      store(gradient + plan.density + j, total);
    }
    const Vec<T> zero = splat(T(0));
    multiply(Dense<T>{tile.colour, plan.colour, s.colour_width}, network + plan.colour_back, s.colour_width, padded,
             plan.width, top, plan.width,
             BackThroughRelu<T>{top, d[3], network + plan.density, plan.width, gradient + plan.trunk_bias[last], {zero, zero}});
    for (int64_t l = last; l > 0; --l) {
      T *h = tile.trunk[l - 1], *back = tile.trunk[l];
      add_outer(h, plan.width, s.width, back, plan.width, plan.width, rows, nullptr, gradient + plan.trunk[l], s.width,
                0);
      multiply(Dense<T>{back, plan.width, s.width}, network + plan.trunk_back[l], s.width, padded, plan.width, h, plan.width,
               BackThroughRelu<T>{h, nullptr, nullptr, plan.width, gradient + plan.trunk_bias[l - 1], {zero, zero}});
    }
    const int64_t octaves = 3 * s.degrees;
    for (int64_t half = 0; half < 2; ++half) {
      add_outer(tile.x + half * plan.half, 2 * plan.half, octaves, tile.trunk[0], plan.width, plan.width, rows, tile.used,
                gradient + plan.trunk[0], s.inputs(), half * octaves);
    }
  }
};

template <typename T>
int64_t scratch_size(const FieldPlan& plan) {
  return Tile<T>().carve(plan, nullptr);
}

template <typename T>
void run(const FieldPlan& plan, const FieldTask<T>& task, const T* network, int64_t begin, int64_t end, T* scratch,
         T* gradient, double* loss) {
  Chunk<T> chunk{plan, task, network, {}, gradient};
  chunk.tile.carve(plan, scratch);
  for (int64_t k = 0; k < plan.half; ++k) {
    const bool inside = k < 3 * plan.shape.degrees;
    const T scale = inside ? power_of_two<T>(plan.shape.min_deg + k / 3) : T(0);
    chunk.tile.scale[k] = scale;
    chunk.tile.fading[k] = T(-0.5) * scale * scale;
  }
  for (int64_t ray = begin; ray < end;) {
    int64_t rows = 0;
    const int64_t after = chunk.place(ray, end, &rows);
    if (rows > 0) chunk.forward(rows);
    for (int64_t r = ray; r < after; ++r) {
      const int64_t first = chunk.tile.first[r - ray], next = chunk.tile.first[r - ray + 1];
      chunk.render(r, first, next);
      if (gradient != nullptr) chunk.back_through_head(r, first, next);
    }
    if (gradient != nullptr && rows > 0) chunk.backward(rows);
    ray = after;
  }
  *loss = chunk.loss;
}

template <typename T>
constexpr FieldKernels<T> kernels{kLanes<T>, kBlock, scratch_size<T>, run<T>};

// SPDX-License-Identifier: Apache-2.0
// Some rays of a fused grid field, batch by batch: march, look up, multiply, composite, and the way back through activations
// that are still in the cache. A batch's rays are marched in waves of some samples each, so that one that ends in something
// opaque costs little of what lies behind. Included once per instruction set, after vector.inl.h.

#include "vector_shuffle.inl.h"

#include "gemm.inl.h"

#include "field_layers.inl.h"

#include "grid_cells.inl.h"

#include "fused_grid_heads.inl.h"

#include "fused_grid_batch.inl.h"

#include "fused_grid_scatter.inl.h"

constexpr int64_t kFirstWave = 12, kWave = 8;  // samples of a ray
static_assert(kCells % kBlock == 0, "a block of cells is whole blocks of rows");

template <int F, typename T>
struct GridGroup {
  const FusedGridPlan<T>& plan;
  const FusedGridTask<T>& task;
  const T* network;
  GridScratch<T> scratch;
  T* gradient;
  std::vector<GridTrace<T>>* traces;
  std::vector<GridRay<T>> rays;
  std::vector<GridSegment> segments;
  double loss = 0;

  int64_t features() const { return F > 0 ? F : task.features; }

  void begin_rays(int64_t begin, int64_t end) {
    const MarchArguments<T>& m = task.march;
    const int64_t colour = plan.network.colour, colour_width = plan.network.shape.colour_width;
    rays.clear();
    segments.clear();
    for (int64_t r = begin; r < end; ++r) {
      const T *direction = m.directions + 3 * r, jitter = m.jitter == nullptr ? T(0) : m.jitter[r];
      const T length =
          std::sqrt(direction[0] * direction[0] + direction[1] * direction[1] + direction[2] * direction[2]);
      rays.push_back({RayMarch<T>(plan.occupancy, m.origins + 3 * r, direction, m.near[r], m.far[r], m.step, m.cone, jitter,
                                  std::min(m.max_samples, plan.most)),
                      {1, {T(0), T(0), T(0)}, T(0), T(0), 0},
                      {},
                      length,
                      true});
      T* bias = scratch.bias + (r - begin) * colour;
      std::copy_n(task.ray_bias + r * colour_width, colour_width, bias);
      std::fill(bias + colour_width, bias + colour, T(0));
    }
    std::fill(scratch.bias + (end - begin) * colour, scratch.bias + (end - begin + 1) * colour, T(0));
  }

  // The next samples of the rays that light is left for, from `row` on. Returns the row after the last.
  int64_t march(int64_t row, int64_t first_ray, int64_t most) {
    const GridSamples<T>& s = scratch.samples;
    for (size_t r = 0; r < rays.size(); ++r) {
      GridRay<T>& ray = rays[r];
      if (!ray.live) continue;
      const int64_t begin = row, last = begin + most;
      const T slope = task.radii == nullptr ? T(0) : task.radii[first_ray + static_cast<int64_t>(r)] * T(0.5);
      T t0, t1;
      while (row < last && ray.march.next(&t0, &t1)) {
        const T middle = T(0.5) * (t0 + t1);
        T x[3];
        ray.march.place(middle, x);
        s.length[row] = (t1 - t0) * ray.length;
        if (task.march.contract) {
          Contraction<T> to;
          contract(x, &to);  // it can be: the cell is known
          std::copy_n(to.place, 3, x);
          s.length[row] *= to.radial;
          s.sigma[row] = slope * middle * to.mean();
        }
        for (int j = 0; j < 3; ++j) s.place[j][row] = x[j];
        s.middle[row] = middle;
        scratch.ray[row] = static_cast<int32_t>(r);
        ++row;
      }
      ray.live = row == last;
      if (row > begin) segments.push_back({static_cast<int64_t>(r), begin, row});
      if (task.radii == nullptr || task.march.contract) continue;
      for (int64_t i = begin; i < row; ++i) s.sigma[i] = slope * s.middle[i];
    }
    return row;
  }

  // Fills up rows [row, end) so that they are harmless.
  void pad(int64_t row, int64_t end) {
    const GridSamples<T>& s = scratch.samples;
    for (; row < end; ++row) {
      for (int j = 0; j < 3; ++j) s.place[j][row] = T(0.5);
      s.sigma[row] = s.length[row] = s.middle[row] = T(0);
      scratch.ray[row] = static_cast<int32_t>(rays.size());
    }
  }

  void encode(int64_t begin, int64_t end) {
    const GridSamples<T>& s = scratch.samples;
    const T* place[3] = {s.place[0] + begin, s.place[1] + begin, s.place[2] + begin};
    const int64_t stride = plan.network.shape.features, count = end - begin, f = features();
    Points<T> points;
    Cells<T> cells[2];  // of this level and of the next, whose entries are on their way to the cache
    place_points(place, task.radii == nullptr ? nullptr : s.sigma + begin, count, points);
    find_cells(plan.levels.level[0], task.radii != nullptr, count, points, cells[0]);
    for (int64_t l = 0; l < plan.levels.count; ++l) {
      if (l + 1 < plan.levels.count) {
        const GridLevel& next = plan.levels.level[l + 1];
        find_cells(next, task.radii != nullptr, count, points, cells[(l + 1) & 1]);
        if (next.hashed) fetch(cells[(l + 1) & 1], count, task.table + next.offset * f, f);
      }
      const GridLevel& level = plan.levels.level[l];
      gather<F>(level, cells[l & 1], count, f, task.table + level.offset * f, stride,
                scratch.features + begin * stride + l * f);
    }
  }

  // The network for rows [begin, end), a whole number of blocks; those from `real` on belong to no ray.
  void forward(int64_t begin, int64_t end, int64_t real) {
    const FieldPlan& net = plan.network;
    const FieldShape& s = net.shape;
    for (int64_t at = begin; at < end; at += kCells) {
      const int64_t stop = std::min(at + kCells, end), rows = stop - at;
      encode(at, stop);
      T* x = scratch.features + at * s.features;
      if (real < stop) {
        std::fill(scratch.features + std::max(real, at) * s.features, scratch.features + stop * s.features, T(0));
      }
      multiply(Dense<T>{x, s.features, s.features}, network + net.trunk[0], s.features, rows, net.width,
               scratch.trunk[0] + at * net.width, net.width, BiasThenRelu<T>{network + net.trunk_bias[0]});
      for (int64_t l = 1; l < s.layers; ++l) {
        multiply(Dense<T>{scratch.trunk[l - 1] + at * net.width, net.width, s.width}, network + net.trunk[l], s.width, rows,
                 net.width, scratch.trunk[l] + at * net.width, net.width, BiasThenRelu<T>{network + net.trunk_bias[l]});
      }
      const T* top = scratch.trunk[s.layers - 1];
      multiply(Dense<T>{top + at * net.width, net.width, s.width}, network + net.colour_weight, s.width, rows, net.colour,
               scratch.colour + at * net.colour, net.colour, RayBiasThenRelu<T>{scratch.bias, net.colour, scratch.ray + at});
      apply_grid_heads(net, network, top, scratch.colour, at, stop, scratch.samples);
    }
  }

  // All waves of the batch; returns the number of rows.
  int64_t render(int64_t first_ray) {
    int64_t rows = 0;
    for (bool first = true;; first = false) {
      const int64_t most = task.stop > T(0) ? (first ? kFirstWave : kWave) : plan.most;
      const int64_t begin = rows;
      const size_t old = segments.size();
      const int64_t real = march(begin, first_ray, most);
      if (real == begin) return rows;
      rows = round_up(real, kBlock);
      pad(real, rows);
      forward(begin, rows, real);
      for (size_t i = old; i < segments.size(); ++i) {
        const GridSegment& part = segments[i];
        GridRay<T>& ray = rays[part.ray];
        if (!ray.pixel.add(part.begin, part.end, task.stop, scratch.samples)) ray.live = false;
      }
    }
  }

  // Outputs of the rays and, where wanted, the gradients of all rows' heads.
  void finish(int64_t first_ray) {
    for (size_t i = 0; i < rays.size(); ++i) {
      const int64_t r = first_ray + static_cast<int64_t>(i);
      GridPixel<T>& pixel = rays[i].pixel;
      const T* background = task.background == nullptr ? nullptr : task.background + r * task.background_stride;
      T rgb[3];
      std::copy_n(pixel.rgb, 3, rgb);
      for (int k = 0; k < 3 && background != nullptr; ++k) rgb[k] += (T(1) - pixel.opacity) * background[k];
      if (task.rgb != nullptr) std::copy_n(rgb, 3, task.rgb + 3 * r);
      if (task.depth != nullptr) task.depth[r] = pixel.depth();
      if (task.opacity != nullptr) task.opacity[r] = pixel.opacity;
      if (task.seen != nullptr) task.seen[r] = pixel.seen;
      if (gradient == nullptr) continue;
      T grad_rgb[3], grad_depth = T(0), grad_opacity = T(0);
      if (task.target != nullptr) {
        double error = 0;
        for (int k = 0; k < 3; ++k) {
          const T difference = rgb[k] - task.target[3 * r + k];
          error += static_cast<double>(difference) * difference;
          grad_rgb[k] = task.ray_weight[r] * T(2.0 / 3.0) * difference;
        }
        loss += task.ray_weight[r] * error / 3;
      } else {
        std::copy_n(task.grad_rgb + 3 * r, 3, grad_rgb);
        grad_depth = task.grad_depth[r];
        grad_opacity = task.grad_opacity[r];
      }
      if (task.grad_background != nullptr) {
        for (int k = 0; k < 3; ++k) task.grad_background[3 * r + k] = (T(1) - pixel.opacity) * grad_rgb[k];
      }
      rays[i].cotangent = GridCotangent<T>(pixel, grad_rgb, grad_depth, grad_opacity, background);
    }
    if (gradient == nullptr) return;
    for (size_t i = segments.size(); i-- > 0;) {
      rays[segments[i].ray].cotangent.add(segments[i].begin, segments[i].end, scratch.samples);
    }
  }

  // Back through the colour head and its ReLU, in place; the sums along each ray are the gradient of ray_bias.
  void back_through_head(int64_t ray, int64_t begin, int64_t end) {
    T *const *d = scratch.samples.grad, *grad_bias = scratch.grad_bias + ray * plan.network.colour;
    const int64_t colour = plan.network.colour;
    for (int64_t j = 0; j < colour; j += kLanes<T>) {
      const T* head = network + plan.network.head + j;
      T* grad_head = gradient + plan.network.head + j;
      Vec<T> w[3], g[3], total = load(grad_bias + j);
      for (int k = 0; k < 3; ++k) {
        w[k] = load(head + k * colour);
        g[k] = load(grad_head + k * colour);
      }
      for (int64_t i = begin; i < end; ++i) {
        T* at = scratch.colour + i * colour + j;
        const Vec<T> c = load(at), d0 = splat(d[0][i]), d1 = splat(d[1][i]), d2 = splat(d[2][i]);
        g[0] = fma(c, d0, g[0]);
        g[1] = fma(c, d1, g[1]);
        g[2] = fma(c, d2, g[2]);
        const Vec<T> back = select(c > splat(T(0)), fma(d2, w[2], fma(d1, w[1], d0 * w[0])), splat(T(0)));
        store(at, back);
        total = total + back;
      }
      for (int k = 0; k < 3; ++k) store(grad_head + k * colour, g[k]);
      store(grad_bias + j, total);
    }
  }

  // The way back through the network, for all rows of the batch.
  void backward(int64_t first_ray, int64_t rows) {
    const FieldPlan& net = plan.network;
    const FieldShape& s = net.shape;
    const int64_t colour = net.colour, width = net.width, last = s.layers - 1, count = static_cast<int64_t>(rays.size());
    std::fill(scratch.grad_bias, scratch.grad_bias + count * colour, T(0));
    T* const* d = scratch.samples.grad;
    traces->emplace_back(rows, task.radii != nullptr ? 4 : 3, s.features);
    GridTrace<T>& trace = traces->back();
    size_t part = 0;
    for (int64_t at = 0; at < rows; at += kCells) {
      const int64_t stop = std::min(at + kCells, rows), n = stop - at;
      int64_t row = at;
      const auto without = [&](int64_t to) {  // rows that belong to no ray
        std::fill(scratch.colour + row * colour, scratch.colour + to * colour, T(0));
        for (int k = 0; k < 4; ++k) std::fill(d[k] + row, d[k] + to, T(0));
      };
      for (; part < segments.size() && segments[part].begin < stop; ++part) {
        const GridSegment& segment = segments[part];
        const int64_t begin = std::max(segment.begin, at), end = std::min(segment.end, stop);
        without(begin);
        back_through_head(segment.ray, begin, end);
        row = end;
        if (segment.end > stop) break;
      }
      without(stop);
      for (int k = 0; k < 4; ++k) {
        T total = T(0);
        for (int64_t i = at; i < stop; ++i) total += d[k][i];
        gradient[net.scalars + k] += total;
      }
      T *top = scratch.trunk[last] + at * width, *hidden = scratch.colour + at * colour;
      add_outer(top, width, s.width, hidden, colour, colour, n, nullptr, gradient + net.colour_weight, s.width, 0);
      for (int64_t j = 0; j < width; j += kLanes<T>) {
        Vec<T> total = load(gradient + net.density + j);
        for (int64_t i = 0; i < n; ++i) total = fma(load(top + i * width + j), splat(d[3][at + i]), total);
        store(gradient + net.density + j, total);
      }
      const Vec<T> zero = splat(T(0));
      multiply(Dense<T>{hidden, colour, s.colour_width}, network + net.colour_back, s.colour_width, n, width, top, width,
               BackThroughRelu<T>{top, d[3] + at, network + net.density, width, gradient + net.trunk_bias[last],
                                  {zero, zero}});
      for (int64_t l = last; l > 0; --l) {
        T *h = scratch.trunk[l - 1] + at * width, *back = scratch.trunk[l] + at * width;
        add_outer(h, width, s.width, back, width, width, n, nullptr, gradient + net.trunk[l], s.width, 0);
        multiply(Dense<T>{back, width, s.width}, network + net.trunk_back[l], s.width, n, width, h, width,
                 BackThroughRelu<T>{h, nullptr, nullptr, width, gradient + net.trunk_bias[l - 1], {zero, zero}});
      }
      T* bottom = scratch.trunk[0] + at * width;
      add_outer(scratch.features + at * s.features, s.features, s.features, bottom, width, width, n, nullptr,
                gradient + net.trunk[0], s.features, 0);
      multiply(Dense<T>{bottom, width, s.width}, network + net.trunk_back[0], s.width, n, plan.inputs, scratch.back,
               plan.inputs, Bare<T>());
      const int64_t f = features();
      for (int64_t l = 0; l < plan.levels.count; ++l) {
        T* to = trace.grad.get() + (l * rows + at) * f;
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t j = 0; j < f; ++j) to[i * f + j] = scratch.back[i * plan.inputs + l * f + j];
        }
      }
    }
    for (int j = 0; j < 3; ++j) std::copy_n(scratch.samples.place[j], rows, trace.place.get() + j * rows);
    if (task.radii != nullptr) std::copy_n(scratch.samples.sigma, rows, trace.place.get() + 3 * rows);
    for (int64_t r = 0; r < count; ++r) {
      std::copy_n(scratch.grad_bias + r * colour, s.colour_width, task.grad_ray_bias + (first_ray + r) * s.colour_width);
    }
  }
};

template <int F, typename T>
void run_group(const FusedGridPlan<T>& plan, const T* network, int64_t begin, int64_t end, T* scratch, T* gradient,
               double* loss, std::vector<GridTrace<T>>* traces) {
  GridGroup<F, T> group{plan, *plan.task, network, {}, gradient, traces, {}, {}};
  group.scratch.carve(plan, scratch);
  for (int64_t ray = begin; ray < end; ray += plan.rays) {
    group.begin_rays(ray, std::min(ray + plan.rays, end));
    const int64_t rows = group.render(ray);
    group.finish(ray);
    if (gradient != nullptr) group.backward(ray, rows);
  }
  *loss = group.loss;
}

template <typename T>
void run_grid(const FusedGridPlan<T>& plan, const T* network, int64_t begin, int64_t end, T* scratch, T* gradient, double* loss,
              std::vector<GridTrace<T>>* traces) {
  const int64_t f = plan.task->features;
  const auto run = f == 2 ? run_group<2, T> : f == 4 ? run_group<4, T> : run_group<0, T>;
  run(plan, network, begin, end, scratch, gradient, loss, traces);
}

template <typename T>
int64_t grid_scratch_size(const FusedGridPlan<T>& plan) {
  return GridScratch<T>().carve(plan, nullptr);
}

template <typename T>
constexpr FusedGridKernels<T> fused_grid_of_set{kLanes<T>, kBlock, grid_scratch_size<T>, run_grid<T>, scatter_grid<T>};

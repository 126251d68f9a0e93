// SPDX-License-Identifier: Apache-2.0
#include <optional>
#include <tuple>

#include "../core/grid.h"
#include "../cpu/fused_grid.h"
#include "march_inputs.h"

namespace medrecon::fused_grid_op {
namespace {

using Optional = std::optional<Tensor>;

#define MR_GRID_ARGUMENTS                                                                                                   \
  const Tensor &origins, const Tensor &directions, const Tensor &near, const Tensor &far, const Tensor &occupancy,          \
      const Tensor &table, const Tensor &parameters, const Tensor &ray_bias, const Optional &jitter, const Optional &radii, \
      const Optional &background
#define MR_GRID_NUMBERS                                                                                                     \
  int64_t resolution, double step, double cone, int64_t max_samples, double stop, at::IntArrayRef resolutions,              \
      int64_t log2_size, int64_t width, int64_t layers, int64_t colour_width, double density_shift, bool contract
#define MR_GRID_INPUTS                                                                                                      \
  origins, directions, near, far, occupancy, table, parameters, ray_bias, jitter, radii, background, resolution, step,      \
      cone, max_samples, stop, resolutions, log2_size, width, layers, colour_width, density_shift, contract

// The inputs that every form of the operator shares, checked and made dense.
struct FusedGrid {
  MarchInputs march;
  Tensor table, parameters, ray_bias, radii, background;  // the last two may be undefined
  FieldShape shape;
  std::vector<int64_t> resolutions;
  int64_t log2_size;
  double stop;

  int64_t rays() const { return march.rays(); }
  at::TensorOptions options() const { return march.origins.options(); }

  FusedGrid(const char* op, MR_GRID_ARGUMENTS, MR_GRID_NUMBERS)
      : march(op, origins, directions, near, far, occupancy, jitter, resolution, step, cone, max_samples, contract),
        resolutions(resolutions.vec()), log2_size(log2_size), stop(stop) {
    const int64_t n = rays(), levels = static_cast<int64_t>(resolutions.size());
    TORCH_CHECK(0 <= log2_size && log2_size <= kLargestLog2Size, op, ": log2_size is ", log2_size);
    TORCH_CHECK(1 <= levels && levels <= kMostLevels, op, ": ", levels, " levels, expected 1 to ", kMostLevels);
    for (const int64_t r : resolutions) TORCH_CHECK(1 <= r && r <= kLargestResolution, op, ": resolution ", r);
    TORCH_CHECK(table.dim() == 2 && table.size(1) >= 1, op, ": table has shape ", table.sizes(),
                ", expected [entries, features]");
    const int64_t entries = grid_levels(resolutions.data(), levels, log2_size).entries;
    this->table = dense(op, origins, table, "table", {entries, table.size(1)});
    TORCH_CHECK(width >= 1 && colour_width >= 1, op, ": width is ", width, ", colour_width is ", colour_width);
    TORCH_CHECK(layers >= 1 && layers <= 8, op, ": layers is ", layers, ", expected 1 to 8");
    TORCH_CHECK(0 <= stop && stop < 1, op, ": stop is ", stop, ", expected 0 to 1");
    shape = FieldShape{0, 0, width, layers, colour_width, density_shift, 1, levels * table.size(1)};
    this->parameters = dense(op, origins, parameters, "parameters", {shape.parameters()});
    this->ray_bias = dense(op, origins, ray_bias, "ray_bias", {n, colour_width});
    if (radii) this->radii = dense(op, origins, *radii, "radii", {n});
    if (background) {
      const int64_t dims = background->dim();
      TORCH_CHECK(dims == 1 || dims == 2, op, ": background has shape ", background->sizes());
      this->background =
          dense(op, origins, *background, "background", dims == 1 ? std::vector<int64_t>{3} : std::vector<int64_t>{n, 3});
    }
  }

  template <typename T>
  cpu::FusedGridTask<T> task() const {
    cpu::FusedGridTask<T> made{};
    made.march = march.arguments<T>();
    made.stop = static_cast<T>(stop);
    made.levels = static_cast<int64_t>(resolutions.size());
    made.log2_size = log2_size;
    made.features = table.size(1);
    made.resolutions = resolutions.data();
    made.table = in<T>(table);
    made.parameters = in<T>(parameters);
    made.ray_bias = in<T>(ray_bias);
    made.radii = radii.defined() ? in<T>(radii) : nullptr;
    made.background = background.defined() ? in<T>(background) : nullptr;
    made.background_stride = background.defined() && background.dim() == 2 ? 3 : 0;
    return made;
  }
};

// Gradients of table, parameters, ray_bias and background; the last of each ray, to be summed for a common background.
struct Gradients {
  Tensor table, parameters, ray_bias, background;

  explicit Gradients(const FusedGrid& grid)
      : table(at::empty(grid.table.sizes(), grid.options())),
        parameters(at::empty(grid.parameters.sizes(), grid.options())),
        ray_bias(at::empty(grid.ray_bias.sizes(), grid.options())),
        background(at::empty({grid.background.defined() ? grid.rays() : 0, 3}, grid.options())) {}

  template <typename T>
  void into(cpu::FusedGridTask<T>* task) const {
    task->grad_table = out<T>(table);
    task->grad_parameters = out<T>(parameters);
    task->grad_ray_bias = out<T>(ray_bias);
    task->grad_background = task->background == nullptr ? nullptr : out<T>(background);
  }
};

template <typename Run>
void dispatch(const Tensor& like, const Run& run) {
  if (like.scalar_type() == at::kFloat) {
    run(float{});
  } else {
    run(double{});
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> fused_grid(MR_GRID_ARGUMENTS, MR_GRID_NUMBERS) {
  const FusedGrid grid("fused_grid", MR_GRID_INPUTS);
  const Tensor rgb = at::empty({grid.rays(), 3}, grid.options()), depth = at::empty({grid.rays()}, grid.options());
  const Tensor opacity = at::empty_like(depth), seen = at::empty({grid.rays()}, grid.options().dtype(at::kLong));
  dispatch(origins, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::FusedGridTask<T> task = grid.task<T>();
    task.rgb = out<T>(rgb);
    task.depth = out<T>(depth);
    task.opacity = out<T>(opacity);
    task.seen = out<int64_t>(seen);
    cpu::fused_grid(grid.shape, task);
  });
  return {rgb, depth, opacity, seen};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> fused_grid_backward(const Tensor& grad_rgb, const Tensor& grad_depth,
                                                               const Tensor& grad_opacity, MR_GRID_ARGUMENTS,
                                                               MR_GRID_NUMBERS) {
  const char* op = "fused_grid_backward";
  const FusedGrid grid(op, MR_GRID_INPUTS);
  const Tensor of_rgb = dense(op, origins, grad_rgb, "grad_rgb", {grid.rays(), 3}),
               of_depth = dense(op, origins, grad_depth, "grad_depth", {grid.rays()}),
               of_opacity = dense(op, origins, grad_opacity, "grad_opacity", {grid.rays()});
  const Gradients gradients(grid);
  dispatch(origins, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::FusedGridTask<T> task = grid.task<T>();
    task.grad_rgb = in<T>(of_rgb);
    task.grad_depth = in<T>(of_depth);
    task.grad_opacity = in<T>(of_opacity);
    gradients.into(&task);
    cpu::fused_grid(grid.shape, task);
  });
  return {gradients.table, gradients.parameters, gradients.ray_bias, gradients.background};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> fused_grid_loss(MR_GRID_ARGUMENTS, const Tensor& target_,
                                                                                   const Tensor& ray_weight_,
                                                                                   MR_GRID_NUMBERS) {
  const char* op = "fused_grid_loss";
  const FusedGrid grid(op, MR_GRID_INPUTS);
  const Tensor target = dense(op, origins, target_, "target", {grid.rays(), 3}),
               ray_weight = dense(op, origins, ray_weight_, "ray_weight", {grid.rays()});
  const Tensor loss = at::empty({}, grid.options()), rgb = at::empty({grid.rays(), 3}, grid.options());
  const Tensor seen = at::empty({grid.rays()}, grid.options().dtype(at::kLong));
  const Gradients gradients(grid);
  dispatch(origins, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::FusedGridTask<T> task = grid.task<T>();
    task.target = in<T>(target);
    task.ray_weight = in<T>(ray_weight);
    task.loss = out<T>(loss);
    task.rgb = out<T>(rgb);
    task.seen = out<int64_t>(seen);
    gradients.into(&task);
    cpu::fused_grid(grid.shape, task);
  });
  return {loss, rgb, seen, gradients.table, gradients.parameters, gradients.ray_bias, gradients.background};
}

#define MR_GRID_TENSOR_SCHEMA                                                                                              \
  "Tensor origins, Tensor directions, Tensor near, Tensor far, Tensor occupancy, Tensor table, Tensor parameters, "        \
  "Tensor ray_bias, Tensor? jitter, Tensor? radii, Tensor? background"
#define MR_GRID_NUMBER_SCHEMA                                                                                              \
  "int resolution, float step, float cone, int max_samples, float stop, int[] resolutions, int log2_size, int width, "     \
  "int layers, int colour_width, float density_shift, bool contract=False"

void schemas(torch::Library& m) {
  m.def("fused_grid(" MR_GRID_TENSOR_SCHEMA ", " MR_GRID_NUMBER_SCHEMA ") -> (Tensor, Tensor, Tensor, Tensor)", kTags);
  m.def("fused_grid_backward(Tensor grad_rgb, Tensor grad_depth, Tensor grad_opacity, " MR_GRID_TENSOR_SCHEMA ", " MR_GRID_NUMBER_SCHEMA
        ") -> (Tensor, Tensor, Tensor, Tensor)",
        kTags);
  m.def("fused_grid_loss(" MR_GRID_TENSOR_SCHEMA ", Tensor target, Tensor ray_weight, " MR_GRID_NUMBER_SCHEMA
        ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        kTags);
}

void implement(torch::Library& m) {
  m.impl("fused_grid", &fused_grid);
  m.impl("fused_grid_backward", &fused_grid_backward);
  m.impl("fused_grid_loss", &fused_grid_loss);
}

}  // namespace
}  // namespace medrecon::fused_grid_op

MR_SCHEMAS(medrecon::fused_grid_op::schemas)
TORCH_LIBRARY_IMPL(medrecon, CPU, m) { medrecon::fused_grid_op::implement(m); }
#undef MR_GRID_ARGUMENTS
#undef MR_GRID_NUMBERS
#undef MR_GRID_INPUTS
#undef MR_TENSORS
#undef MR_NUMBERS

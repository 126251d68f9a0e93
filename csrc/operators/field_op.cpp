// SPDX-License-Identifier: Apache-2.0
#include <optional>
#include <tuple>

#include "../cpu/field.h"
#include "tensors.h"

namespace medrecon {
namespace {

using Optional = std::optional<Tensor>;

// The inputs that every form of the operator shares, checked and made dense.
struct Field {
  Tensor t, origins, directions, radii, parameters, ray_bias, background, mask;  // the last two may be undefined
  FieldShape shape;

  int64_t rays() const { return t.size(0); }
  int64_t samples() const { return t.size(1) - 1; }

  Field(const char* op, const Tensor& t_, const Tensor& origins_, const Tensor& directions_, const Tensor& radii_,
        const Tensor& parameters_, const Tensor& ray_bias_, const Optional& background_, const Optional& mask_,
        int64_t min_deg, int64_t max_deg, int64_t width, int64_t layers, int64_t colour_width, double density_shift,
        double density_gain)
      : t(t_.contiguous()), origins(origins_.contiguous()), directions(directions_.contiguous()), radii(radii_.contiguous()),
        parameters(parameters_.contiguous()), ray_bias(ray_bias_.contiguous()),
        shape{min_deg, max_deg - min_deg, width, layers, colour_width, density_shift, density_gain} {
    check_floating(op, t, "t");
    check_alike(op, t, origins, "origins");
    check_alike(op, t, directions, "directions");
    check_alike(op, t, radii, "radii");
    check_alike(op, t, parameters, "parameters");
    check_alike(op, t, ray_bias, "ray_bias");
    TORCH_CHECK(t.dim() == 2 && t.size(1) >= 1, op, ": t has shape ", t.sizes(), ", expected [rays, intervals + 1]");
    TORCH_CHECK(min_deg >= -32 && min_deg < max_deg && max_deg <= 32, op, ": octaves from ", min_deg, " to ", max_deg);
    TORCH_CHECK(width >= 1 && colour_width >= 1, op, ": width is ", width, ", colour_width is ", colour_width);
    TORCH_CHECK(layers >= 1 && layers <= 8, op, ": layers is ", layers, ", expected 1 to 8");
    const int64_t n = t.size(0);
    check_shape(op, origins, "origins", {n, 3});
    check_shape(op, directions, "directions", {n, 3});
    check_shape(op, radii, "radii", {n, 1});
    check_shape(op, parameters, "parameters", {shape.parameters()});
    check_shape(op, ray_bias, "ray_bias", {n, colour_width});
    if (background_) {
      background = background_->contiguous();
      check_alike(op, t, background, "background");
      TORCH_CHECK(background.dim() == 1 || background.dim() == 2, op, ": background has shape ", background.sizes());
      check_shape(op, background, "background", background.dim() == 1 ? std::vector<int64_t>{3} : std::vector<int64_t>{n, 3});
    }
    if (mask_) {
      mask = mask_->contiguous();
      TORCH_CHECK(mask.scalar_type() == at::kBool && mask.device() == t.device(), op, ": mask must be bool and beside t");
      check_shape(op, mask, "mask", {n, t.size(1) - 1});
    }
  }

  template <typename T>
  cpu::FieldTask<T> task() const {
    cpu::FieldTask<T> made{};
    made.rays = rays();
    made.samples = samples();
    made.t = in<T>(t);
    made.origins = in<T>(origins);
    made.directions = in<T>(directions);
    made.radii = in<T>(radii);
    made.parameters = in<T>(parameters);
    made.ray_bias = in<T>(ray_bias);
    made.background = background.defined() ? in<T>(background) : nullptr;
    made.background_stride = background.defined() && background.dim() == 2 ? 3 : 0;
    made.mask = mask.defined() ? mask.const_data_ptr<bool>() : nullptr;
    return made;
  }
};

// Gradients of parameters, ray_bias and background; the last of each ray, to be summed for a common background.
struct Gradients {
  Tensor parameters, ray_bias, background;

  explicit Gradients(const Field& field)
      : parameters(at::empty(field.parameters.sizes(), field.t.options())),
        ray_bias(at::empty(field.ray_bias.sizes(), field.t.options())),
        background(at::empty({field.background.defined() ? field.rays() : 0, 3}, field.t.options())) {}

  template <typename T>
  void into(cpu::FieldTask<T>* task) const {
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

#define MR_FIELD_ARGUMENTS                                                                                                 \
  const Tensor &t, const Tensor &origins, const Tensor &directions, const Tensor &radii, const Tensor &parameters,         \
      const Tensor &ray_bias, const Optional &background, const Optional &mask
#define MR_FIELD_NUMBERS                                                                                                   \
  int64_t min_deg, int64_t max_deg, int64_t width, int64_t layers, int64_t colour_width, double density_shift,             \
      double density_gain
#define MR_FIELD(op)                                                                                                       \
  Field(op, t, origins, directions, radii, parameters, ray_bias, background, mask, min_deg, max_deg, width, layers,        \
        colour_width, density_shift, density_gain)

std::tuple<Tensor, Tensor, Tensor, Tensor> fused_field(MR_FIELD_ARGUMENTS, MR_FIELD_NUMBERS) {
  const Field field = MR_FIELD("fused_field");
  const auto options = field.t.options();
  const Tensor rgb = at::empty({field.rays(), 3}, options), depth = at::empty({field.rays()}, options);
  const Tensor opacity = at::empty_like(depth), weights = at::empty({field.rays(), field.samples()}, options);
  dispatch(field.t, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::FieldTask<T> task = field.task<T>();
    task.rgb = out<T>(rgb);
    task.depth = out<T>(depth);
    task.opacity = out<T>(opacity);
    task.weights = out<T>(weights);
    cpu::fused_field(field.shape, task);
  });
  return {rgb, depth, opacity, weights};
}

std::tuple<Tensor, Tensor, Tensor> fused_field_backward(const Tensor& grad_rgb, const Tensor& grad_depth,
                                                        const Tensor& grad_opacity, const Tensor& grad_weights,
                                                        MR_FIELD_ARGUMENTS, MR_FIELD_NUMBERS) {
  const char* op = "fused_field_backward";
  const Field field = MR_FIELD(op);
  const int64_t n = field.rays();
  check_shape(op, grad_rgb, "grad_rgb", {n, 3});
  check_shape(op, grad_depth, "grad_depth", {n});
  check_shape(op, grad_opacity, "grad_opacity", {n});
  check_shape(op, grad_weights, "grad_weights", {n, field.samples()});
  for (const Tensor* grad : {&grad_rgb, &grad_depth, &grad_opacity, &grad_weights}) check_alike(op, field.t, *grad, "grad");
  const Tensor of_rgb = grad_rgb.contiguous(), of_depth = grad_depth.contiguous(), of_opacity = grad_opacity.contiguous(),
               of_weights = grad_weights.contiguous();
  const Gradients gradients(field);
  dispatch(field.t, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::FieldTask<T> task = field.task<T>();
    task.grad_rgb = in<T>(of_rgb);
    task.grad_depth = in<T>(of_depth);
    task.grad_opacity = in<T>(of_opacity);
    task.grad_weights = in<T>(of_weights);
    gradients.into(&task);
    cpu::fused_field(field.shape, task);
  });
  return {gradients.parameters, gradients.ray_bias, gradients.background};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> fused_field_loss(MR_FIELD_ARGUMENTS, const Tensor& target_,
                                                                            const Tensor& ray_weight_, MR_FIELD_NUMBERS) {
  const char* op = "fused_field_loss";
  const Field field = MR_FIELD(op);
  const Tensor target = target_.contiguous(), ray_weight = ray_weight_.contiguous();
  check_alike(op, field.t, target, "target");
  check_alike(op, field.t, ray_weight, "ray_weight");
  check_shape(op, target, "target", {field.rays(), 3});
  check_shape(op, ray_weight, "ray_weight", {field.rays()});
  const auto options = field.t.options();
  const Tensor loss = at::empty({}, options), rgb = at::empty({field.rays(), 3}, options);
  const Tensor weights = at::empty({field.rays(), field.samples()}, options);
  const Gradients gradients(field);
  dispatch(field.t, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::FieldTask<T> task = field.task<T>();
    task.target = in<T>(target);
    task.ray_weight = in<T>(ray_weight);
    task.loss = out<T>(loss);
    task.rgb = out<T>(rgb);
    task.weights = out<T>(weights);
    gradients.into(&task);
    cpu::fused_field(field.shape, task);
  });
  return {loss, rgb, weights, gradients.parameters, gradients.ray_bias, gradients.background};
}

#define MR_TENSORS \
  "Tensor t, Tensor origins, Tensor directions, Tensor radii, Tensor parameters, Tensor ray_bias, Tensor? background, Tensor? mask"
#define MR_NUMBERS \
  "int min_deg, int max_deg, int width, int layers, int colour_width, float density_shift, float density_gain"

void schemas(torch::Library& m) {
  m.def("fused_field(" MR_TENSORS ", " MR_NUMBERS ") -> (Tensor, Tensor, Tensor, Tensor)", kTags);
  m.def(
      "fused_field_backward(Tensor grad_rgb, Tensor grad_depth, Tensor grad_opacity, Tensor grad_weights, " MR_TENSORS
      ", " MR_NUMBERS ") -> (Tensor, Tensor, Tensor)",
      kTags);
  m.def("fused_field_loss(" MR_TENSORS ", Tensor target, Tensor ray_weight, " MR_NUMBERS
        ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        kTags);
}

void implement(torch::Library& m) {
  m.impl("fused_field", &fused_field);
  m.impl("fused_field_backward", &fused_field_backward);
  m.impl("fused_field_loss", &fused_field_loss);
}

}  // namespace
}  // namespace medrecon

MR_SCHEMAS(medrecon::schemas)
TORCH_LIBRARY_IMPL(medrecon, CPU, m) { medrecon::implement(m); }

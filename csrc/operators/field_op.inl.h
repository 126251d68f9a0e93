// SPDX-License-Identifier: Apache-2.0
#include <optional>
#include <tuple>

#include "../cpu/field.h"
#include "../cuda/field.h"
#include "tensors.h"

#if defined(MEDRECON_WITH_CUDA)
#include <ATen/Context.h>
#endif

namespace medrecon::field_op {
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
      : t(t_.contiguous()), shape{min_deg, max_deg - min_deg, width, layers, colour_width, density_shift, density_gain} {
    check_floating(op, t, "t");
    TORCH_CHECK(t.dim() == 2 && t.size(1) >= 1, op, ": t has shape ", t.sizes(), ", expected [rays, intervals + 1]");
    TORCH_CHECK(min_deg >= -32 && min_deg < max_deg && max_deg <= 32, op, ": octaves from ", min_deg, " to ", max_deg);
    TORCH_CHECK(width >= 1 && colour_width >= 1, op, ": width is ", width, ", colour_width is ", colour_width);
    TORCH_CHECK(layers >= 1 && layers <= 8, op, ": layers is ", layers, ", expected 1 to 8");
    const int64_t n = t.size(0);
    origins = dense(op, t, origins_, "origins", {n, 3});
    directions = dense(op, t, directions_, "directions", {n, 3});
    radii = dense(op, t, radii_, "radii", {n, 1});
    parameters = dense(op, t, parameters_, "parameters", {shape.parameters()});
    ray_bias = dense(op, t, ray_bias_, "ray_bias", {n, colour_width});
    if (background_) {
      const int64_t dims = background_->dim();
      TORCH_CHECK(dims == 1 || dims == 2, op, ": background has shape ", background_->sizes());
      background = dense(op, t, *background_, "background", dims == 1 ? std::vector<int64_t>{3} : std::vector<int64_t>{n, 3});
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

template <typename T>
void point(const T** pointer, const Tensor& input) {
  *pointer = in<T>(input);
}

template <typename T>
void point(T** pointer, const Tensor& output) {
  *pointer = out<T>(output);
}

#if defined(MEDRECON_WITH_CUDA)
// As torch's own products of float matrices: torch.set_float32_matmul_precision.
cuda::FieldPrecision precision() {
  switch (at::globalContext().float32MatmulPrecision()) {
    case at::Float32MatmulPrecision::HIGHEST:
      return cuda::FieldPrecision::kExact;
    case at::Float32MatmulPrecision::HIGH:
      return cuda::FieldPrecision::kTf32;
    default:
      return cuda::FieldPrecision::kBf16;
  }
}
#endif

template <typename T>
void render(const Field& field, const cpu::FieldTask<T>& task) {
  if (!field.t.is_cuda()) return cpu::fused_field(field.shape, task);
#if defined(MEDRECON_WITH_CUDA)
  TORCH_CHECK(cuda::field_fits(field.shape),
              "fused_field: on CUDA at most 4 layers, 16 octaves, width and colour_width 128");
  const c10::cuda::CUDAGuard guard(field.t.device());
  const cuda::FieldPrecision chosen = precision();
  const int64_t size = cuda::field_work_size<T>(field.shape, task, chosen);
  const Tensor work = at::empty({size}, field.t.options().dtype(at::kByte));
  const int code = cuda::fused_field<T>(c10::cuda::getCurrentCUDAStream().stream(), field.shape, task, chosen,
                                        work.mutable_data_ptr<uint8_t>());
  TORCH_CHECK(code == 0, "fused_field: CUDA launch failed: ", cudaGetErrorString(static_cast<cudaError_t>(code)));
#else
  TORCH_CHECK(false, "fused_field: built without CUDA");
#endif
}

// Renders in the field's scalar type, after fill(task) has pointed to what is wanted.
template <typename Fill>
void run(const Field& field, const Fill& fill) {
  const auto in_type = [&](auto scalar) {
    auto task = field.task<decltype(scalar)>();
    fill(&task);
    render(field, task);
  };
  if (field.t.scalar_type() == at::kFloat) {
    in_type(float{});
  } else {
    in_type(double{});
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
  run(field, [&](auto* task) {
    point(&task->rgb, rgb);
    point(&task->depth, depth);
    point(&task->opacity, opacity);
    point(&task->weights, weights);
  });
  return {rgb, depth, opacity, weights};
}

std::tuple<Tensor, Tensor, Tensor> fused_field_backward(const Tensor& grad_rgb, const Tensor& grad_depth,
                                                        const Tensor& grad_opacity, const Tensor& grad_weights,
                                                        MR_FIELD_ARGUMENTS, MR_FIELD_NUMBERS) {
  const char* op = "fused_field_backward";
  const Field field = MR_FIELD(op);
  const int64_t n = field.rays();
  const Tensor of_rgb = dense(op, field.t, grad_rgb, "grad_rgb", {n, 3}),
               of_depth = dense(op, field.t, grad_depth, "grad_depth", {n}),
               of_opacity = dense(op, field.t, grad_opacity, "grad_opacity", {n}),
               of_weights = dense(op, field.t, grad_weights, "grad_weights", {n, field.samples()});
  const Gradients gradients(field);
  run(field, [&](auto* task) {
    point(&task->grad_rgb, of_rgb);
    point(&task->grad_depth, of_depth);
    point(&task->grad_opacity, of_opacity);
    point(&task->grad_weights, of_weights);
    gradients.into(task);
  });
  return {gradients.parameters, gradients.ray_bias, gradients.background};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> fused_field_loss(MR_FIELD_ARGUMENTS, const Tensor& target_,
                                                                            const Tensor& ray_weight_, MR_FIELD_NUMBERS) {
  const char* op = "fused_field_loss";
  const Field field = MR_FIELD(op);
  const Tensor target = dense(op, field.t, target_, "target", {field.rays(), 3}),
               ray_weight = dense(op, field.t, ray_weight_, "ray_weight", {field.rays()});
  const auto options = field.t.options();
  const Tensor loss = at::empty({}, options), rgb = at::empty({field.rays(), 3}, options);
  const Tensor weights = at::empty({field.rays(), field.samples()}, options);
  const Gradients gradients(field);
  run(field, [&](auto* task) {
    point(&task->target, target);
    point(&task->ray_weight, ray_weight);
    point(&task->loss, loss);
    point(&task->rgb, rgb);
    point(&task->weights, weights);
    gradients.into(task);
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
}  // namespace medrecon::field_op

MR_SCHEMAS(medrecon::field_op::schemas)
MR_IMPLEMENTATIONS(medrecon::field_op::implement)
#undef MR_FIELD_ARGUMENTS
#undef MR_FIELD_NUMBERS
#undef MR_FIELD
#undef MR_TENSORS
#undef MR_NUMBERS

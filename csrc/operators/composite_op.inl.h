// SPDX-License-Identifier: Apache-2.0
#include <tuple>

#include "../cpu/composite.h"
#include "background.h"
#include "tensors.h"

#if defined(MEDRECON_WITH_CUDA)
#include "../cuda/composite.h"
#endif

namespace medrecon::composite_op {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Dense copies of the checked inputs; they live as long as the pointers into them are used.
struct Inputs {
  Tensor rgb, density, t, directions, background;

  Inputs(const char* op, const Tensor& rgb_, const Tensor& density_, const Tensor& t_, const Tensor& directions_,
         const Tensor& background_) {
    check_floating(op, density_, "density");
    TORCH_CHECK(density_.dim() == 2, op, ": density has shape ", density_.sizes(), ", expected [rays, intervals]");
    const int64_t n = density_.size(0), s = density_.size(1);
    density = density_.contiguous();
    rgb = dense(op, density, rgb_, "rgb", {n, s, 3});
    t = dense(op, density, t_, "t", {n, s + 1});
    directions = dense(op, density, directions_, "directions", {n, 3});
    background = of_rays(op, density, background_, n);
  }

  template <typename T>
  Rays<T> rays() const {
    const int64_t n = density.size(0), s = density.size(1);
    return {n,         s,             n * s,  nullptr, in<T>(rgb), in<T>(density),
            in<T>(t), in<T>(t) + 1, in<T>(directions), in<T>(background), stride_of(background), T(0)};
  }
};

Outputs composite(const Tensor& rgb, const Tensor& density, const Tensor& t, const Tensor& directions,
                  const Tensor& background) {
  const Inputs inputs("composite", rgb, density, t, directions, background);
  const Tensor colour = result({density.size(0), 3}, density), weights = result_like(density);
  const Tensor depth = result({density.size(0)}, density), opacity = result_like(depth);
  MR_RUN(density, composite, inputs.rays<T>(),
         Pixels<T*>{out<T>(colour), out<T>(depth), out<T>(opacity), out<T>(weights)});
  return {colour, depth, opacity, weights};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> composite_backward(
    const Tensor& grad_rgb_, const Tensor& grad_depth_, const Tensor& grad_opacity_, const Tensor& grad_weights_,
    const Tensor& depth_, const Tensor& opacity_, const Tensor& weights_, const Tensor& rgb, const Tensor& density,
    const Tensor& t, const Tensor& directions, const Tensor& background) {
  const char* op = "composite_backward";
  const Inputs inputs(op, rgb, density, t, directions, background);
  const int64_t n = density.size(0), s = density.size(1);
  const Tensor grad_rgb = dense(op, density, grad_rgb_, "grad_rgb", {n, 3}),
               grad_depth = dense(op, density, grad_depth_, "grad_depth", {n}),
               grad_opacity = dense(op, density, grad_opacity_, "grad_opacity", {n}),
               grad_weights = dense(op, density, grad_weights_, "grad_weights", {n, s});
  const Tensor depth = dense(op, density, depth_, "depth", {n}),
               opacity = dense(op, density, opacity_, "opacity", {n}),
               weights = dense(op, density, weights_, "weights", {n, s});
  const Tensor of_rgb = result_like(inputs.rgb), of_density = result_like(inputs.density),
               of_t = result_like(inputs.t), of_directions = result_like(inputs.directions),
               of_background = result({n, 3}, density);
  MR_RUN(density, composite_backward, inputs.rays<T>(),
         Pixels<const T*>{in<T>(grad_rgb), in<T>(grad_depth), in<T>(grad_opacity), in<T>(grad_weights)},
         Pixels<const T*>{nullptr, in<T>(depth), in<T>(opacity), in<T>(weights)},
         RayGradients<T>{out<T>(of_rgb), out<T>(of_density), out<T>(of_t), nullptr, out<T>(of_directions),
                         out<T>(of_background)});
  return {of_rgb, of_density, of_t, of_directions, in_shape_of(background, of_background)};
}

void schemas(torch::Library& m) {
  m.def(
      "composite(Tensor rgb, Tensor density, Tensor t, Tensor directions, Tensor background)"
      " -> (Tensor, Tensor, Tensor, Tensor)",
      kTags);
  m.def(
      "composite_backward(Tensor grad_rgb, Tensor grad_depth, Tensor grad_opacity, Tensor grad_weights,"
      " Tensor depth, Tensor opacity, Tensor weights, Tensor rgb, Tensor density, Tensor t, Tensor directions,"
      " Tensor background) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
      kTags);
}

void implement(torch::Library& m) {
  m.impl("composite", &composite);
  m.impl("composite_backward", &composite_backward);
}

}  // namespace
}  // namespace medrecon::composite_op

MR_SCHEMAS(medrecon::composite_op::schemas)
MR_IMPLEMENTATIONS(medrecon::composite_op::implement)

// SPDX-License-Identifier: Apache-2.0
// composite for rays with a number of samples each; the kernels are those of composite.
#include <ATen/ops/zeros_like.h>

#include <tuple>

#include "../cpu/composite.h"
#include "background.h"
#include "tensors.h"

#if defined(MEDRECON_WITH_CUDA)
#include "../cuda/composite.h"
#endif

namespace medrecon::composite_packed_op {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Dense copies of the checked inputs; they live as long as the pointers into them are used.
struct Packed {
  Tensor rgb, density, t0, t1, directions, background, offsets;
  double stop;

  Packed(const char* op, const Tensor& rgb_, const Tensor& density_, const Tensor& t0_, const Tensor& t1_,
         const Tensor& directions_, const Tensor& background_, const Tensor& offsets_, double stop_)
      : stop(stop_) {
    check_floating(op, density_, "density");
    TORCH_CHECK(offsets_.scalar_type() == at::kLong, op, ": offsets must be int64, is ", offsets_.scalar_type());
    TORCH_CHECK(offsets_.device() == density_.device(), op, ": offsets is on ", offsets_.device(), ", expected ",
                density_.device());
    TORCH_CHECK(density_.dim() == 1, op, ": density has shape ", density_.sizes(), ", expected [samples]");
    TORCH_CHECK(offsets_.dim() == 1 && offsets_.size(0) >= 1, op, ": offsets has shape ", offsets_.sizes(),
                ", expected [rays + 1]");
    const int64_t samples = density_.size(0), rays = offsets_.size(0) - 1;
    density = density_.contiguous(), offsets = offsets_.contiguous();
    rgb = dense(op, density, rgb_, "rgb", {samples, 3});
    t0 = dense(op, density, t0_, "t0", {samples});
    t1 = dense(op, density, t1_, "t1", {samples});
    directions = dense(op, density, directions_, "directions", {rays, 3});
    background = of_rays(op, density, background_, rays);
    if (!offsets.is_cuda()) check_order(op);  // on a GPU this would wait for it; its kernels stay within the samples anyway
  }

  // Rays that overlap would be written by two threads.
  void check_order(const char* op) const {
    const int64_t* at = offsets.const_data_ptr<int64_t>();
    const int64_t rays = offsets.size(0) - 1;
    bool ordered = at[0] == 0 && at[rays] == density.size(0);
    for (int64_t r = 0; r < rays; ++r) ordered = ordered && at[r] <= at[r + 1];
    TORCH_CHECK(ordered, op, ": offsets must ascend from 0 to the number of samples, ", density.size(0));
  }

  template <typename T>
  Rays<T> rays() const {
    return {offsets.size(0) - 1,
            0,
            density.size(0),
            offsets.const_data_ptr<int64_t>(),
            in<T>(rgb),
            in<T>(density),
            in<T>(t0),
            in<T>(t1),
            in<T>(directions),
            in<T>(background),
            stride_of(background),
            static_cast<T>(stop)};
  }
};

// For results of which every sample has a ray, as the checks of the offsets make sure on the CPU.
Tensor blank(const Tensor& like) { return like.is_cuda() ? at::zeros_like(like) : result_like(like); }

Outputs composite_packed(const Tensor& rgb, const Tensor& density, const Tensor& t0, const Tensor& t1,
                         const Tensor& directions, const Tensor& background, const Tensor& offsets, double stop) {
  const Packed inputs("composite_packed", rgb, density, t0, t1, directions, background, offsets, stop);
  const Tensor colour = result({directions.size(0), 3}, density), weights = blank(density);
  const Tensor depth = result({directions.size(0)}, density), opacity = result_like(depth);
  MR_RUN(density, composite, inputs.rays<T>(),
         Pixels<T*>{out<T>(colour), out<T>(depth), out<T>(opacity), out<T>(weights)});
  return {colour, depth, opacity, weights};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> composite_packed_backward(
    const Tensor& grad_rgb_, const Tensor& grad_depth_, const Tensor& grad_opacity_, const Tensor& grad_weights_,
    const Tensor& depth_, const Tensor& opacity_, const Tensor& weights_, const Tensor& rgb, const Tensor& density,
    const Tensor& t0, const Tensor& t1, const Tensor& directions, const Tensor& background, const Tensor& offsets,
    double stop) {
  const char* op = "composite_packed_backward";
  const Packed inputs(op, rgb, density, t0, t1, directions, background, offsets, stop);
  const int64_t rays = directions.size(0), samples = density.size(0);
  const Tensor grad_rgb = dense(op, density, grad_rgb_, "grad_rgb", {rays, 3}),
               grad_depth = dense(op, density, grad_depth_, "grad_depth", {rays}),
               grad_opacity = dense(op, density, grad_opacity_, "grad_opacity", {rays}),
               grad_weights = dense(op, density, grad_weights_, "grad_weights", {samples});
  const Tensor depth = dense(op, density, depth_, "depth", {rays}),
               opacity = dense(op, density, opacity_, "opacity", {rays}),
               weights = dense(op, density, weights_, "weights", {samples});
  const Tensor of_rgb = blank(inputs.rgb), of_density = blank(inputs.density),
               of_t0 = blank(inputs.t0), of_t1 = blank(inputs.t1),
               of_directions = result_like(inputs.directions), of_background = result({rays, 3}, density);
  MR_RUN(density, composite_backward, inputs.rays<T>(),
         Pixels<const T*>{in<T>(grad_rgb), in<T>(grad_depth), in<T>(grad_opacity), in<T>(grad_weights)},
         Pixels<const T*>{nullptr, in<T>(depth), in<T>(opacity), in<T>(weights)},
         RayGradients<T>{out<T>(of_rgb), out<T>(of_density), out<T>(of_t0), out<T>(of_t1), out<T>(of_directions),
                         out<T>(of_background)});
  return {of_rgb, of_density, of_t0, of_t1, of_directions, in_shape_of(background, of_background)};
}

void schemas(torch::Library& m) {
  m.def(
      "composite_packed(Tensor rgb, Tensor density, Tensor t0, Tensor t1, Tensor directions, Tensor background,"
      " Tensor offsets, float stop) -> (Tensor, Tensor, Tensor, Tensor)",
      kTags);
  m.def(
      "composite_packed_backward(Tensor grad_rgb, Tensor grad_depth, Tensor grad_opacity, Tensor grad_weights,"
      " Tensor depth, Tensor opacity, Tensor weights, Tensor rgb, Tensor density, Tensor t0, Tensor t1,"
      " Tensor directions, Tensor background, Tensor offsets, float stop)"
      " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      kTags);
}

void implement(torch::Library& m) {
  m.impl("composite_packed", &composite_packed);
  m.impl("composite_packed_backward", &composite_packed_backward);
}

}  // namespace
}  // namespace medrecon::composite_packed_op

MR_SCHEMAS(medrecon::composite_packed_op::schemas)
MR_IMPLEMENTATIONS(medrecon::composite_packed_op::implement)

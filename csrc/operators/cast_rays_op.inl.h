// SPDX-License-Identifier: Apache-2.0
#include <tuple>

#include "../cpu/cast_rays.h"
#include "tensors.h"

#if defined(MEDRECON_WITH_CUDA)
#include "../cuda/cast_rays.h"
#endif

namespace medrecon::cast_rays_op {
namespace {

// Dense copies of the checked inputs; they live as long as the pointers into them are used.
struct Cones {
  Tensor t, origins, directions, radii;

  Cones(const char* op, const Tensor& t_, const Tensor& origins_, const Tensor& directions_, const Tensor& radii_)
      : t(t_.contiguous()) {
    check_floating(op, t, "t");
    TORCH_CHECK(t.dim() == 2 && t.size(1) >= 1, op, ": t has shape ", t.sizes(), ", expected [rays, intervals + 1]");
    origins = dense(op, t, origins_, "origins", {rays(), 3});
    directions = dense(op, t, directions_, "directions", {rays(), 3});
    radii = dense(op, t, radii_, "radii", {rays(), 1});
  }

  int64_t rays() const { return t.size(0); }
  int64_t intervals() const { return t.size(1) - 1; }
};

std::tuple<Tensor, Tensor> cast_rays(const Tensor& t, const Tensor& origins, const Tensor& directions,
                                     const Tensor& radii) {
  const Cones cones("cast_rays", t, origins, directions, radii);
  const Tensor mean = result({cones.rays(), cones.intervals(), 3}, t), var = result_like(mean);
  MR_RUN(t, cast_rays, cones.rays(), cones.intervals(), in<T>(cones.t), in<T>(cones.origins), in<T>(cones.directions),
         in<T>(cones.radii), out<T>(mean), out<T>(var));
  return {mean, var};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cast_rays_backward(const Tensor& grad_mean_, const Tensor& grad_var_,
                                                              const Tensor& t, const Tensor& origins,
                                                              const Tensor& directions, const Tensor& radii) {
  const char* op = "cast_rays_backward";
  const Cones cones(op, t, origins, directions, radii);
  const int64_t rays = cones.rays(), intervals = cones.intervals();
  const Tensor grad_mean = dense(op, t, grad_mean_, "grad_mean", {rays, intervals, 3}),
               grad_var = dense(op, t, grad_var_, "grad_var", {rays, intervals, 3});
  const Tensor grad_t = result_like(cones.t), grad_origins = result_like(cones.origins),
               grad_directions = result_like(cones.directions), grad_radii = result_like(cones.radii);
  MR_RUN(t, cast_rays_backward, rays, intervals, in<T>(grad_mean), in<T>(grad_var), in<T>(cones.t),
         in<T>(cones.directions), in<T>(cones.radii), out<T>(grad_t), out<T>(grad_origins), out<T>(grad_directions),
         out<T>(grad_radii));
  return {grad_t, grad_origins, grad_directions, grad_radii};
}

void schemas(torch::Library& m) {
  m.def("cast_rays(Tensor t, Tensor origins, Tensor directions, Tensor radii) -> (Tensor, Tensor)", kTags);
  m.def(
      "cast_rays_backward(Tensor grad_mean, Tensor grad_var, Tensor t, Tensor origins, Tensor directions, Tensor radii)"
      " -> (Tensor, Tensor, Tensor, Tensor)",
      kTags);
}

void implement(torch::Library& m) {
  m.impl("cast_rays", &cast_rays);
  m.impl("cast_rays_backward", &cast_rays_backward);
}

}  // namespace
}  // namespace medrecon::cast_rays_op

MR_SCHEMAS(medrecon::cast_rays_op::schemas)
MR_IMPLEMENTATIONS(medrecon::cast_rays_op::implement)

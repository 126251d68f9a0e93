// SPDX-License-Identifier: Apache-2.0
#include <tuple>

#include "../cpu/cast_rays.h"
#include "tensors.h"

#if defined(MEDRECON_WITH_CUDA)
#include "../cuda/cast_rays.h"
#endif

namespace medrecon {
namespace {

void check_rays(const char* op, const Tensor& t, const Tensor& origins, const Tensor& directions, const Tensor& radii) {
  check_floating(op, t, "t");
  check_alike(op, t, origins, "origins");
  check_alike(op, t, directions, "directions");
  check_alike(op, t, radii, "radii");
  TORCH_CHECK(t.dim() == 2 && t.size(1) >= 1, op, ": t has shape ", t.sizes(), ", expected [rays, intervals + 1]");
  check_shape(op, origins, "origins", {t.size(0), 3});
  check_shape(op, directions, "directions", {t.size(0), 3});
  check_shape(op, radii, "radii", {t.size(0), 1});
}

std::tuple<Tensor, Tensor> cast_rays(const Tensor& t_, const Tensor& origins_, const Tensor& directions_,
                                     const Tensor& radii_) {
  check_rays("cast_rays", t_, origins_, directions_, radii_);
  const Tensor t = t_.contiguous(), origins = origins_.contiguous(), directions = directions_.contiguous(),
               radii = radii_.contiguous();
  const int64_t rays = t.size(0), intervals = t.size(1) - 1;
  const Tensor mean = at::empty({rays, intervals, 3}, t.options());
  const Tensor var = at::empty_like(mean);
  MR_RUN(t, cast_rays, rays, intervals, in<T>(t), in<T>(origins), in<T>(directions), in<T>(radii), out<T>(mean),
         out<T>(var));
  return {mean, var};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cast_rays_backward(const Tensor& grad_mean_, const Tensor& grad_var_,
                                                              const Tensor& t_, const Tensor& origins,
                                                              const Tensor& directions_, const Tensor& radii_) {
  const char* op = "cast_rays_backward";
  check_rays(op, t_, origins, directions_, radii_);
  check_alike(op, t_, grad_mean_, "grad_mean");
  check_alike(op, t_, grad_var_, "grad_var");
  const Tensor t = t_.contiguous(), directions = directions_.contiguous(), radii = radii_.contiguous(),
               grad_mean = grad_mean_.contiguous(), grad_var = grad_var_.contiguous();
  const int64_t rays = t.size(0), intervals = t.size(1) - 1;
  check_shape(op, grad_mean, "grad_mean", {rays, intervals, 3});
  check_shape(op, grad_var, "grad_var", {rays, intervals, 3});
  const Tensor grad_t = at::empty({rays, intervals + 1}, t.options());
  const Tensor grad_origins = at::empty({rays, 3}, t.options());
  const Tensor grad_directions = at::empty({rays, 3}, t.options());
  const Tensor grad_radii = at::empty({rays, 1}, t.options());
  MR_RUN(t, cast_rays_backward, rays, intervals, in<T>(grad_mean), in<T>(grad_var), in<T>(t), in<T>(directions),
         in<T>(radii), out<T>(grad_t), out<T>(grad_origins), out<T>(grad_directions), out<T>(grad_radii));
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
}  // namespace medrecon

MR_SCHEMAS(medrecon::schemas)
MR_IMPLEMENTATIONS(medrecon::implement)

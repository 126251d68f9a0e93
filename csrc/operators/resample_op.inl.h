// SPDX-License-Identifier: Apache-2.0
#include "../cpu/resample.h"
#include "tensors.h"

#if defined(MEDRECON_WITH_CUDA)
#include "../cuda/resample.h"
#endif

namespace medrecon::resample_op {
namespace {

Tensor resample(const Tensor& t_, const Tensor& weights_, const Tensor& u_, double padding) {
  const char* op = "resample";
  check_floating(op, t_, "t");
  check_alike(op, t_, weights_, "weights");
  check_alike(op, t_, u_, "u");
  TORCH_CHECK(weights_.dim() == 2 && weights_.size(1) >= 1, op, ": weights has shape ", weights_.sizes(),
              ", expected [rays, intervals] with one interval at least");
  const int64_t rays = weights_.size(0), bins = weights_.size(1);
  check_shape(op, t_, "t", {rays, bins + 1});
  TORCH_CHECK(u_.dim() == 2 && (u_.size(0) == rays || u_.size(0) == 1), op, ": u has shape ", u_.sizes(),
              ", expected [rays, n] or [1, n]");
  const int64_t n = u_.size(1);
  const Tensor t = t_.contiguous(), weights = weights_.contiguous(), u = u_.contiguous();
  const Tensor out_ = result({rays, n}, t);
  MR_RUN(t, resample, rays, bins, n, u.size(0) == 1, static_cast<T>(padding), in<T>(t), in<T>(weights), in<T>(u),
         out<T>(out_));
  return out_;
}

void schemas(torch::Library& m) {
  m.def("resample(Tensor t, Tensor weights, Tensor u, float padding) -> Tensor", kTags);
}

void implement(torch::Library& m) { m.impl("resample", &resample); }

}  // namespace
}  // namespace medrecon::resample_op

MR_SCHEMAS(medrecon::resample_op::schemas)
MR_IMPLEMENTATIONS(medrecon::resample_op::implement)

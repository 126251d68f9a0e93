// SPDX-License-Identifier: Apache-2.0
#include <limits>
#include <tuple>

#include "../cpu/sinkhorn.h"
#include "tensors.h"

#if defined(MEDRECON_WITH_CUDA)
#include "../cuda/sinkhorn.h"
#endif

namespace medrecon::sinkhorn_op {
namespace {

void check_transport(const char* op, const Tensor& scores, const Tensor& bin_score, int64_t iterations) {
  check_floating(op, scores, "scores");
  check_alike(op, scores, bin_score, "bin_score");
  TORCH_CHECK(scores.dim() == 3, op, ": scores has shape ", scores.sizes(), ", expected [B, M, N]");
  TORCH_CHECK(bin_score.numel() == 1, op, ": bin_score has shape ", bin_score.sizes(), ", expected one element");
  TORCH_CHECK(iterations >= 0, op, ": iterations is ", iterations, ", expected at least 0");
}

Tensor log_sinkhorn(const Tensor& scores_, const Tensor& bin_score_, int64_t iterations) {
  check_transport("log_sinkhorn", scores_, bin_score_, iterations);
  const Tensor scores = scores_.contiguous(), bin_score = bin_score_.contiguous();
  const int64_t batch = scores.size(0), m = scores.size(1), n = scores.size(2);
  const Tensor plan = result({batch, m + 1, n + 1}, scores);
  if (m == 0 || n == 0) {  // everything goes to the dustbin, whatever the scores
    plan.zero_();
    plan.select(1, m).select(1, n).fill_(-std::numeric_limits<double>::infinity());
    return plan;
  }
  const Tensor work = scratch(scores, batch * (m + n + 2));
  MR_RUN(scores, log_sinkhorn, batch, m, n, iterations, in<T>(scores), in<T>(bin_score), out<T>(plan), out<T>(work));
  return plan;
}

std::tuple<Tensor, Tensor> log_sinkhorn_backward(const Tensor& grad_, const Tensor& scores_, const Tensor& bin_score_,
                                                 int64_t iterations) {
  const char* op = "log_sinkhorn_backward";
  check_transport(op, scores_, bin_score_, iterations);
  check_alike(op, scores_, grad_, "grad");
  const int64_t batch = scores_.size(0), m = scores_.size(1), n = scores_.size(2);
  check_shape(op, grad_, "grad", {batch, m + 1, n + 1});
  const Tensor grad = grad_.contiguous(), scores = scores_.contiguous(), bin_score = bin_score_.contiguous();
  const Tensor grad_scores = result_like(scores);
  const Tensor grad_bin = at::empty(bin_score.sizes(), scores.options());
  if (m == 0 || n == 0) {
    grad_bin.zero_();
    return {grad_scores, grad_bin};
  }
  const Tensor work = scratch(scores, batch * ((m + n + 2) * 2 * iterations + n + 2));
  MR_RUN(scores, log_sinkhorn_backward, batch, m, n, iterations, in<T>(grad), in<T>(scores), in<T>(bin_score),
         out<T>(grad_scores), out<T>(grad_bin), out<T>(work));
  return {grad_scores, grad_bin};
}

void schemas(torch::Library& m) {
  m.def("log_sinkhorn(Tensor scores, Tensor bin_score, int iterations) -> Tensor", kTags);
  m.def(
      "log_sinkhorn_backward(Tensor grad, Tensor scores, Tensor bin_score, int iterations) -> (Tensor, Tensor)",
      kTags);
}

void implement(torch::Library& m) {
  m.impl("log_sinkhorn", &log_sinkhorn);
  m.impl("log_sinkhorn_backward", &log_sinkhorn_backward);
}

}  // namespace
}  // namespace medrecon::sinkhorn_op

MR_SCHEMAS(medrecon::sinkhorn_op::schemas)
MR_IMPLEMENTATIONS(medrecon::sinkhorn_op::implement)

// SPDX-License-Identifier: Apache-2.0
// Tensors to raw pointers: schemas of the operators, checks, allocation, and the choice between the CPU and CUDA kernels.
// Gradients and shape functions are registered in Python (medrecon/ops/registration.py).
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <limits>
#include <tuple>
#include <vector>

#include "cpu/kernels.h"

#if defined(MEDRECON_WITH_CUDA)
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/kernels.h"
#endif

namespace medrecon {
namespace {

using at::Tensor;

constexpr int64_t kLargestDegree = 32;

void check_alike(const char* op, const Tensor& first, const Tensor& other, const char* name) {
  TORCH_CHECK(other.scalar_type() == first.scalar_type(), op, ": ", name, " is ", other.scalar_type(), ", expected ",
              first.scalar_type());
  TORCH_CHECK(other.device() == first.device(), op, ": ", name, " is on ", other.device(), ", expected ", first.device());
}

void check_shape(const char* op, const Tensor& tensor, const char* name, const std::vector<int64_t>& shape) {
  TORCH_CHECK(tensor.sizes() == at::IntArrayRef(shape), op, ": ", name, " has shape ", tensor.sizes(), ", expected ",
              at::IntArrayRef(shape));
}

void check_floating(const char* op, const Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble, op, ": ", name,
              " must be float32 or float64, is ", tensor.scalar_type());
}

template <typename T>
const T* in(const Tensor& tensor) {
  return tensor.const_data_ptr<T>();
}

template <typename T>
T* out(const Tensor& tensor) {
  return tensor.mutable_data_ptr<T>();
}

#if defined(MEDRECON_WITH_CUDA)
#define MR_LAUNCH_CUDA(tensor, name, ...)                                                                     \
  const c10::cuda::CUDAGuard guard((tensor).device());                                                        \
  const int code = cuda::name<T>(c10::cuda::getCurrentCUDAStream().stream(), __VA_ARGS__);                    \
  TORCH_CHECK(code == 0, "medrecon::" #name ": CUDA launch failed: ", cuda::error_text(code))
#else
#define MR_LAUNCH_CUDA(tensor, name, ...) TORCH_CHECK(false, "medrecon::" #name ": built without CUDA")
#endif

// Calls cpu::name<T> or cuda::name<T> for the device and scalar type of `tensor`; T is usable in the arguments.
#define MR_RUN(tensor, name, ...)                                \
  do {                                                           \
    const auto run = [&](auto scalar) {                          \
      using T = decltype(scalar);                                \
      if ((tensor).is_cuda()) {                                  \
        MR_LAUNCH_CUDA(tensor, name, __VA_ARGS__);               \
      } else {                                                   \
        cpu::name<T>(__VA_ARGS__);                               \
      }                                                          \
    };                                                           \
    if ((tensor).scalar_type() == at::kFloat) {                  \
      run(float{});                                              \
    } else {                                                     \
      run(double{});                                             \
    }                                                            \
  } while (false)

// ---- cast_rays ----------------------------------------------------------------------------------------------------

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

// ---- encodings ----------------------------------------------------------------------------------------------------

// Shape of a batch [..., dims] seen as [points, dims], and of its encoding.
struct Encoding {
  int64_t points, dims, degrees;
  std::vector<int64_t> shape;

  Encoding(const char* op, const Tensor& x, const char* name, int64_t min_deg, int64_t max_deg) {
    check_floating(op, x, name);
    TORCH_CHECK(x.dim() >= 1, op, ": ", name, " needs at least one dimension");
    TORCH_CHECK(-kLargestDegree <= min_deg && min_deg <= max_deg && max_deg <= kLargestDegree, op,
                ": needs -32 <= min_deg <= max_deg <= 32, got ", min_deg, " and ", max_deg);
    dims = x.size(-1);
    points = dims == 0 ? 0 : x.numel() / dims;
    degrees = max_deg - min_deg;
    shape = x.sizes().vec();
    shape.back() = 2 * dims * degrees;
  }
};

Tensor positional_encoding(const Tensor& x_, int64_t min_deg, int64_t max_deg) {
  const Encoding e("positional_encoding", x_, "x", min_deg, max_deg);
  const Tensor x = x_.contiguous();
  const Tensor encoded = at::empty(e.shape, x.options());
  MR_RUN(x, positional_encoding, e.points, e.dims, min_deg, e.degrees, in<T>(x), out<T>(encoded));
  return encoded;
}

Tensor positional_encoding_backward(const Tensor& grad_, const Tensor& x_, int64_t min_deg, int64_t max_deg) {
  const char* op = "positional_encoding_backward";
  const Encoding e(op, x_, "x", min_deg, max_deg);
  check_alike(op, x_, grad_, "grad");
  check_shape(op, grad_, "grad", e.shape);
  const Tensor grad = grad_.contiguous(), x = x_.contiguous();
  const Tensor grad_x = at::empty(x.sizes(), x.options());
  MR_RUN(x, positional_encoding_backward, e.points, e.dims, min_deg, e.degrees, in<T>(grad), in<T>(x), out<T>(grad_x));
  return grad_x;
}

Tensor integrated_positional_encoding(const Tensor& mean_, const Tensor& var_, int64_t min_deg, int64_t max_deg) {
  const char* op = "integrated_positional_encoding";
  const Encoding e(op, mean_, "mean", min_deg, max_deg);
  check_alike(op, mean_, var_, "var");
  check_shape(op, var_, "var", mean_.sizes().vec());
  const Tensor mean = mean_.contiguous(), var = var_.contiguous();
  const Tensor encoded = at::empty(e.shape, mean.options());
  MR_RUN(mean, integrated_positional_encoding, e.points, e.dims, min_deg, e.degrees, in<T>(mean), in<T>(var),
         out<T>(encoded));
  return encoded;
}

std::tuple<Tensor, Tensor> integrated_positional_encoding_backward(const Tensor& grad_, const Tensor& mean_,
                                                                   const Tensor& var_, int64_t min_deg,
                                                                   int64_t max_deg) {
  const char* op = "integrated_positional_encoding_backward";
  const Encoding e(op, mean_, "mean", min_deg, max_deg);
  check_alike(op, mean_, var_, "var");
  check_alike(op, mean_, grad_, "grad");
  check_shape(op, var_, "var", mean_.sizes().vec());
  check_shape(op, grad_, "grad", e.shape);
  const Tensor grad = grad_.contiguous(), mean = mean_.contiguous(), var = var_.contiguous();
  const Tensor grad_mean = at::empty(mean.sizes(), mean.options());
  const Tensor grad_var = at::empty(mean.sizes(), mean.options());
  MR_RUN(mean, integrated_positional_encoding_backward, e.points, e.dims, min_deg, e.degrees, in<T>(grad), in<T>(mean),
         in<T>(var), out<T>(grad_mean), out<T>(grad_var));
  return {grad_mean, grad_var};
}

// ---- log_sinkhorn -------------------------------------------------------------------------------------------------

void check_transport(const char* op, const Tensor& scores, const Tensor& bin_score, int64_t iterations) {
  check_floating(op, scores, "scores");
  check_alike(op, scores, bin_score, "bin_score");
  TORCH_CHECK(scores.dim() == 3, op, ": scores has shape ", scores.sizes(), ", expected [B, M, N]");
  TORCH_CHECK(bin_score.numel() == 1, op, ": bin_score has shape ", bin_score.sizes(), ", expected one element");
  TORCH_CHECK(iterations >= 0, op, ": iterations is ", iterations, ", expected at least 0");
}

// Work space of a CUDA kernel.
Tensor scratch(const Tensor& like, int64_t count) { return at::empty({like.is_cuda() ? count : 0}, like.options()); }

Tensor log_sinkhorn(const Tensor& scores_, const Tensor& bin_score_, int64_t iterations) {
  check_transport("log_sinkhorn", scores_, bin_score_, iterations);
  const Tensor scores = scores_.contiguous(), bin_score = bin_score_.contiguous();
  const int64_t batch = scores.size(0), m = scores.size(1), n = scores.size(2);
  const Tensor plan = at::empty({batch, m + 1, n + 1}, scores.options());
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
  const Tensor grad_scores = at::empty({batch, m, n}, scores.options());
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

void implement(torch::Library& m) {
  m.impl("cast_rays", &cast_rays);
  m.impl("cast_rays_backward", &cast_rays_backward);
  m.impl("positional_encoding", &positional_encoding);
  m.impl("positional_encoding_backward", &positional_encoding_backward);
  m.impl("integrated_positional_encoding", &integrated_positional_encoding);
  m.impl("integrated_positional_encoding_backward", &integrated_positional_encoding_backward);
  m.impl("log_sinkhorn", &log_sinkhorn);
  m.impl("log_sinkhorn_backward", &log_sinkhorn_backward);
}

}  // namespace
}  // namespace medrecon

TORCH_LIBRARY(medrecon, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("cast_rays(Tensor t, Tensor origins, Tensor directions, Tensor radii) -> (Tensor, Tensor)", tags);
  m.def(
      "cast_rays_backward(Tensor grad_mean, Tensor grad_var, Tensor t, Tensor origins, Tensor directions, Tensor radii)"
      " -> (Tensor, Tensor, Tensor, Tensor)",
      tags);
  m.def("positional_encoding(Tensor x, int min_deg, int max_deg) -> Tensor", tags);
  m.def("positional_encoding_backward(Tensor grad, Tensor x, int min_deg, int max_deg) -> Tensor", tags);
  m.def("integrated_positional_encoding(Tensor mean, Tensor var, int min_deg, int max_deg) -> Tensor", tags);
  m.def(
      "integrated_positional_encoding_backward(Tensor grad, Tensor mean, Tensor var, int min_deg, int max_deg)"
      " -> (Tensor, Tensor)",
      tags);
  m.def("log_sinkhorn(Tensor scores, Tensor bin_score, int iterations) -> Tensor", tags);
  m.def(
      "log_sinkhorn_backward(Tensor grad, Tensor scores, Tensor bin_score, int iterations) -> (Tensor, Tensor)",
      tags);
}

TORCH_LIBRARY_IMPL(medrecon, CPU, m) { medrecon::implement(m); }
#if defined(MEDRECON_WITH_CUDA)
TORCH_LIBRARY_IMPL(medrecon, CUDA, m) { medrecon::implement(m); }
#endif

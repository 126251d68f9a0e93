// SPDX-License-Identifier: Apache-2.0
#include <tuple>
#include <vector>

#include "../cpu/encoding.h"
#include "tensors.h"

#if defined(MEDRECON_WITH_CUDA)
#include "../cuda/encoding.h"
#endif

namespace medrecon::encoding_op {
namespace {

constexpr int64_t kLargestDegree = 32;

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
  const Tensor encoded = result(e.shape, x);
  MR_RUN(x, positional_encoding, e.points, e.dims, min_deg, e.degrees, in<T>(x), out<T>(encoded));
  return encoded;
}

Tensor positional_encoding_backward(const Tensor& grad_, const Tensor& x_, int64_t min_deg, int64_t max_deg) {
  const char* op = "positional_encoding_backward";
  const Encoding e(op, x_, "x", min_deg, max_deg);
  check_alike(op, x_, grad_, "grad");
  check_shape(op, grad_, "grad", e.shape);
  const Tensor grad = grad_.contiguous(), x = x_.contiguous();
  const Tensor grad_x = result_like(x);
  MR_RUN(x, positional_encoding_backward, e.points, e.dims, min_deg, e.degrees, in<T>(grad), in<T>(x), out<T>(grad_x));
  return grad_x;
}

Tensor integrated_positional_encoding(const Tensor& mean_, const Tensor& var_, int64_t min_deg, int64_t max_deg) {
  const char* op = "integrated_positional_encoding";
  const Encoding e(op, mean_, "mean", min_deg, max_deg);
  check_alike(op, mean_, var_, "var");
  check_shape(op, var_, "var", mean_.sizes().vec());
  const Tensor mean = mean_.contiguous(), var = var_.contiguous();
  const Tensor encoded = result(e.shape, mean);
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
  const Tensor grad_mean = result_like(mean);
  const Tensor grad_var = result_like(mean);
  MR_RUN(mean, integrated_positional_encoding_backward, e.points, e.dims, min_deg, e.degrees, in<T>(grad), in<T>(mean),
         in<T>(var), out<T>(grad_mean), out<T>(grad_var));
  return {grad_mean, grad_var};
}

void schemas(torch::Library& m) {
  m.def("positional_encoding(Tensor x, int min_deg, int max_deg) -> Tensor", kTags);
  m.def("positional_encoding_backward(Tensor grad, Tensor x, int min_deg, int max_deg) -> Tensor", kTags);
  m.def("integrated_positional_encoding(Tensor mean, Tensor var, int min_deg, int max_deg) -> Tensor", kTags);
  m.def(
      "integrated_positional_encoding_backward(Tensor grad, Tensor mean, Tensor var, int min_deg, int max_deg)"
      " -> (Tensor, Tensor)",
      kTags);
}

void implement(torch::Library& m) {
  m.impl("positional_encoding", &positional_encoding);
  m.impl("positional_encoding_backward", &positional_encoding_backward);
  m.impl("integrated_positional_encoding", &integrated_positional_encoding);
  m.impl("integrated_positional_encoding_backward", &integrated_positional_encoding_backward);
}

}  // namespace
}  // namespace medrecon::encoding_op

MR_SCHEMAS(medrecon::encoding_op::schemas)
MR_IMPLEMENTATIONS(medrecon::encoding_op::implement)

// SPDX-License-Identifier: Apache-2.0
#include <optional>
#include <tuple>

#include "../core/grid.h"
#include "../cpu/grid.h"
#include "tensors.h"

#if defined(MEDRECON_WITH_CUDA)
#include "../cuda/grid.h"
#endif

namespace medrecon::grid_op {
namespace {

// Checked arguments, dense.
struct Grid {
  int64_t samples, levels, features, log2_size, entries;
  const int64_t* resolutions;
  Tensor x, sigma;

  Grid(const char* op, const Tensor& x_, const std::optional<Tensor>& sigma_, int64_t features_, at::IntArrayRef resolutions_,
       int64_t log2_size_)
      : features(features_), log2_size(log2_size_), resolutions(resolutions_.data()) {
    check_floating(op, x_, "x");
    TORCH_CHECK(x_.dim() == 2 && x_.size(1) == 3, op, ": x has shape ", x_.sizes(), ", expected [samples, 3]");
    TORCH_CHECK(0 <= log2_size && log2_size <= kLargestLog2Size, op, ": log2_size is ", log2_size, ", expected 0 to ",
                kLargestLog2Size);
    levels = static_cast<int64_t>(resolutions_.size());
    TORCH_CHECK(levels <= kMostLevels, op, ": ", levels, " levels, expected at most ", kMostLevels);
    for (const int64_t n : resolutions_) {
      TORCH_CHECK(1 <= n && n <= kLargestResolution, op, ": resolution ", n, " is not within 1 and ", kLargestResolution);
    }
    samples = x_.size(0);
    entries = grid_levels(resolutions, levels, log2_size).entries;
    x = x_.contiguous();
    if (sigma_.has_value()) {
      check_alike(op, x_, *sigma_, "sigma");
      check_shape(op, *sigma_, "sigma", {samples});
      sigma = sigma_->contiguous();
    }
  }

  void check_table(const char* op, const Tensor& table) const {
    check_alike(op, x, table, "table");
    check_shape(op, table, "table", {entries, features});
  }

  void check_grad(const char* op, const Tensor& grad) const {
    check_alike(op, x, grad, "grad");
    check_shape(op, grad, "grad", {samples, levels * features});
  }

  template <typename T>
  const T* sigma_or_null() const {
    return sigma.defined() ? in<T>(sigma) : nullptr;
  }
};

int64_t features_of(const char* op, const Tensor& table) {
  TORCH_CHECK(table.dim() == 2, op, ": table has shape ", table.sizes(), ", expected [entries, features]");
  return table.size(1);
}

Tensor grid_encode(const Tensor& x, const std::optional<Tensor>& sigma, const Tensor& table_, at::IntArrayRef resolutions,
                   int64_t log2_size) {
  const char* op = "grid_encode";
  const Grid g(op, x, sigma, features_of(op, table_), resolutions, log2_size);
  g.check_table(op, table_);
  const Tensor table = table_.contiguous();
  const Tensor encoded = at::empty({g.samples, g.levels * g.features}, g.x.options());
  MR_RUN(g.x, grid_encode, g.samples, g.levels, g.resolutions, g.log2_size, g.features, in<T>(g.x), g.sigma_or_null<T>(),
         in<T>(table), out<T>(encoded));
  return encoded;
}

Tensor grid_encode_backward_table(const Tensor& grad_, const Tensor& x, const std::optional<Tensor>& sigma, int64_t features,
                                  at::IntArrayRef resolutions, int64_t log2_size) {
  const char* op = "grid_encode_backward_table";
  TORCH_CHECK(features >= 0, op, ": features is ", features);
  const Grid g(op, x, sigma, features, resolutions, log2_size);
  g.check_grad(op, grad_);
  const Tensor grad = grad_.contiguous(), grad_table = at::empty({g.entries, features}, g.x.options());
#if defined(MEDRECON_WITH_CUDA)
  if (x.is_cuda()) {  // sums in fixed point: see cuda/grid.cu
    const int64_t limbs = x.scalar_type() == at::kFloat ? 1 : 2;
    const Tensor sums = at::empty({limbs, g.entries * features}, g.x.options().dtype(at::kLong));
    const Tensor largest = at::empty({g.levels}, g.x.options().dtype(at::kLong));
    const auto run = [&](auto scalar) {
      using T = decltype(scalar);
      MR_LAUNCH_CUDA(g.x, grid_encode_backward_table, g.samples, g.levels, g.resolutions, g.log2_size, features, in<T>(grad),
                     in<T>(g.x), g.sigma_or_null<T>(), out<int64_t>(largest), out<int64_t>(sums), out<T>(grad_table));
    };
    x.scalar_type() == at::kFloat ? run(float{}) : run(double{});
    return grad_table;
  }
#endif
  const auto run = [&](auto scalar) {
    using T = decltype(scalar);
    cpu::grid_encode_backward_table<T>(g.samples, g.levels, g.resolutions, g.log2_size, features, in<T>(grad), in<T>(g.x),
                                       g.sigma_or_null<T>(), out<T>(grad_table));
  };
  x.scalar_type() == at::kFloat ? run(float{}) : run(double{});
  return grad_table;
}

// -> gradients of x and of sigma; the latter is empty where there is no sigma.
std::tuple<Tensor, Tensor> grid_encode_backward_inputs(const Tensor& grad_, const Tensor& x,
                                                       const std::optional<Tensor>& sigma, const Tensor& table_,
                                                       at::IntArrayRef resolutions, int64_t log2_size) {
  const char* op = "grid_encode_backward_inputs";
  const Grid g(op, x, sigma, features_of(op, table_), resolutions, log2_size);
  g.check_table(op, table_);
  g.check_grad(op, grad_);
  const Tensor grad = grad_.contiguous(), table = table_.contiguous();
  const Tensor grad_x = at::empty({g.samples, 3}, g.x.options());
  const Tensor grad_sigma = at::empty({g.sigma.defined() ? g.samples : 0}, g.x.options());
  MR_RUN(g.x, grid_encode_backward_inputs, g.samples, g.levels, g.resolutions, g.log2_size, g.features, in<T>(grad),
         in<T>(g.x), g.sigma_or_null<T>(), in<T>(table), out<T>(grad_x), out<T>(grad_sigma));
  return {grad_x, grad_sigma};
}

void schemas(torch::Library& m) {
  m.def("grid_encode(Tensor x, Tensor? sigma, Tensor table, int[] resolutions, int log2_size) -> Tensor", kTags);
  m.def(
      "grid_encode_backward_table(Tensor grad, Tensor x, Tensor? sigma, int features, int[] resolutions, int log2_size)"
      " -> Tensor",
      kTags);
  m.def(
      "grid_encode_backward_inputs(Tensor grad, Tensor x, Tensor? sigma, Tensor table, int[] resolutions, int log2_size)"
      " -> (Tensor, Tensor)",
      kTags);
}

void implement(torch::Library& m) {
  m.impl("grid_encode", &grid_encode);
  m.impl("grid_encode_backward_table", &grid_encode_backward_table);
  m.impl("grid_encode_backward_inputs", &grid_encode_backward_inputs);
}

}  // namespace
}  // namespace medrecon::grid_op

MR_SCHEMAS(medrecon::grid_op::schemas)
MR_IMPLEMENTATIONS(medrecon::grid_op::implement)

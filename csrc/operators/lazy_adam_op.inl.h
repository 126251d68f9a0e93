// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "../cpu/lazy_adam.h"
#include "tensors.h"

namespace medrecon::lazy_adam_op {
namespace {

void lazy_adam(const Tensor& parameter, const Tensor& grad, const Tensor& mean, const Tensor& square, double lr, double beta1,
               double beta2, double eps, int64_t step) {
  const char* op = "lazy_adam_";
  check_floating(op, parameter, "parameter");
  TORCH_CHECK(step >= 1, op, ": step is ", step, ", expected at least 1");
  const Tensor* const all[] = {&parameter, &grad, &mean, &square};
  const char* const names[] = {"parameter", "grad", "mean", "square"};
  for (int i = 0; i < 4; ++i) {
    check_alike(op, parameter, *all[i], names[i]);
    check_shape(op, *all[i], names[i], parameter.sizes().vec());
    TORCH_CHECK(all[i]->is_contiguous(), op, ": ", names[i], " is not contiguous");
  }
  const double rate = lr / (1 - std::pow(beta1, step)), correction = 1 / std::sqrt(1 - std::pow(beta2, step));
  const auto run = [&](auto scalar) {
    using T = decltype(scalar);
    const cpu::AdamNumbers<T> numbers{T(rate), T(beta1), T(beta2), T(eps), T(correction)};
    cpu::lazy_adam<T>(parameter.numel(), in<T>(grad), numbers, out<T>(parameter), out<T>(mean), out<T>(square));
  };
  if (parameter.scalar_type() == at::kFloat) {
    run(float{});
  } else {
    run(double{});
  }
}

void schemas(torch::Library& m) {
  m.def(
      "lazy_adam_(Tensor(a!) parameter, Tensor grad, Tensor(b!) mean, Tensor(c!) square, float lr, float beta1, float beta2,"
      " float eps, int step) -> ()",
      kTags);
}

void implement(torch::Library& m) { m.impl("lazy_adam_", &lazy_adam); }

}  // namespace
}  // namespace medrecon::lazy_adam_op

MR_SCHEMAS(medrecon::lazy_adam_op::schemas)
TORCH_LIBRARY_IMPL(medrecon, CPU, m) { medrecon::lazy_adam_op::implement(m); }

// SPDX-License-Identifier: Apache-2.0
// The Python module: what was built, and the core maths one scalar at a time for tests. The operators themselves are
// registered by operators/*_op.inl.h when this library is loaded. Only pybind11 is needed: torch/extension.h costs a minute to compile.
#include <pybind11/pybind11.h>
#include <torch/version.h>

#include "core/encoding.h"
#include "core/frustum.h"
#include "cpu/isa.h"

#if defined(MEDRECON_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace py = pybind11;

#define MR_TEXT_(x) #x
#define MR_TEXT(x) MR_TEXT_(x)

namespace {

py::dict build_info() {
  py::dict info;
  info["torch"] = TORCH_VERSION;
  info["cpp_standard"] = static_cast<long>(__cplusplus);
  info["threading"] = medrecon::cpu::threading();
  info["simd"] = medrecon::cpu::simd();
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
  info["compiler"] = "gcc " __VERSION__;
#elif defined(_MSC_VER)
  info["compiler"] = "msvc " MR_TEXT(_MSC_VER);
#else
  info["compiler"] = "unknown";
#endif
#if defined(MEDRECON_WITH_CUDA)
  info["cuda"] = CUDART_VERSION;
#else
  info["cuda"] = 0;
#endif
  return info;
}

// -> (t_mean, t_var, r_var for radius 1)
py::tuple frustum_moments(double t0, double t1) {
  const auto m = medrecon::frustum_moments(t0, t1);
  return py::make_tuple(m.t_mean, m.t_var, m.r_var_unit);
}

// -> (E[sin], E[cos]) of 2^degree * N(mean, var), in float32
py::tuple encode_gaussian(float mean, float var, int degree) {
  float s, c;
  medrecon::encode_gaussian(mean, var, medrecon::power_of_two<float>(degree), &s, &c);
  return py::make_tuple(s, c);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("build_info", &build_info);
  m.def("frustum_moments", &frustum_moments, py::arg("t0"), py::arg("t1"));
  m.def("encode_gaussian", &encode_gaussian, py::arg("mean"), py::arg("var"), py::arg("degree"));
}

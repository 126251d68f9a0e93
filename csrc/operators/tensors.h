// SPDX-License-Identifier: Apache-2.0
// Tensors to raw pointers: what every operator needs to check its arguments and to call the CPU or the CUDA kernel.
// Gradients and shape functions are registered in Python (medrecon/ops/registration).
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <vector>

#if defined(MEDRECON_WITH_CUDA)
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#endif

namespace medrecon {

using at::Tensor;

inline void check_alike(const char* op, const Tensor& first, const Tensor& other, const char* name) {
  TORCH_CHECK(other.scalar_type() == first.scalar_type(), op, ": ", name, " is ", other.scalar_type(), ", expected ",
              first.scalar_type());
  TORCH_CHECK(other.device() == first.device(), op, ": ", name, " is on ", other.device(), ", expected ", first.device());
}

inline void check_shape(const char* op, const Tensor& tensor, const char* name, const std::vector<int64_t>& shape) {
  TORCH_CHECK(tensor.sizes() == at::IntArrayRef(shape), op, ": ", name, " has shape ", tensor.sizes(), ", expected ",
              at::IntArrayRef(shape));
}

// The tensor itself or a dense copy of it, checked. It has to live as long as the pointers into it are used.
inline Tensor dense(const char* op, const Tensor& like, const Tensor& tensor, const char* name,
                    const std::vector<int64_t>& shape) {
  check_alike(op, like, tensor, name);
  check_shape(op, tensor, name, shape);
  return tensor.contiguous();
}

inline void check_floating(const char* op, const Tensor& tensor, const char* name) {
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
  TORCH_CHECK(code == 0, "medrecon::" #name ": CUDA launch failed: ", cudaGetErrorString(static_cast<cudaError_t>(code)))
#else
#define MR_LAUNCH_CUDA(tensor, name, ...) TORCH_CHECK(false, "medrecon::" #name ": built without CUDA")
#endif

// Results to be written; dense, whatever the strides of `like`.
inline Tensor result(at::IntArrayRef sizes, const Tensor& like) { return at::empty(sizes, like.options()); }

inline Tensor result_like(const Tensor& like) { return result(like.sizes(), like); }

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

// Work space of a CUDA kernel; empty for the CPU's.
inline Tensor scratch(const Tensor& like, int64_t count) {
  return at::empty({like.is_cuda() ? count : 0}, like.options());
}

// The schemas are registered by schemas(library), and the functions by implement(library) for each device.
#define MR_SCHEMAS(schemas) \
  TORCH_LIBRARY_FRAGMENT(medrecon, m) { schemas(m); }
#if defined(MEDRECON_WITH_CUDA)
#define MR_IMPLEMENTATIONS(implement)                   \
  TORCH_LIBRARY_IMPL(medrecon, CPU, m) { implement(m); } \
  TORCH_LIBRARY_IMPL(medrecon, CUDA, m) { implement(m); }
#else
#define MR_IMPLEMENTATIONS(implement) \
  TORCH_LIBRARY_IMPL(medrecon, CPU, m) { implement(m); }
#endif

// Of every schema: usable under torch.compile.
inline const std::vector<at::Tag> kTags = {at::Tag::pt2_compliant_tag};

}  // namespace medrecon

// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/cumsum.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <tuple>

#include "../core/march.h"
#include "march_inputs.h"

#if defined(MEDRECON_WITH_CUDA)
#include "../cuda/march.h"
#endif

namespace medrecon::march_op {
namespace {

using Packed = std::tuple<Tensor, Tensor, Tensor, Tensor>;

struct Intervals {
  Tensor ray, t0, t1;

  Intervals(int64_t count, const Tensor& like)
      : ray(at::empty({count}, like.options().dtype(at::kInt))),
        t0(at::empty({count}, like.options())),
        t1(at::empty({count}, like.options())) {}
};

template <typename T>
Packed march_on_cpu(const cpu::MarchArguments<T>& arguments, const Tensor& like) {
  const Tensor offsets = at::empty({arguments.rays + 1}, like.options().dtype(at::kLong));
  const cpu::Marched<T> marched(arguments, out<int64_t>(offsets));
  const Intervals found(in<int64_t>(offsets)[arguments.rays], like);
  marched.write(in<int64_t>(offsets), out<int32_t>(found.ray), out<T>(found.t0), out<T>(found.t1));
  return {offsets, found.ray, found.t0, found.t1};
}

template <typename T>
Packed march_on_cuda(const cpu::MarchArguments<T>& arguments, const Tensor& like, const Tensor& occupancy) {
#if defined(MEDRECON_WITH_CUDA)
  const int64_t r = arguments.resolution / kCoarse;
  const bool hierarchical = arguments.resolution % kCoarse == 0;
  const Tensor coarse = at::empty({hierarchical ? r * r * r : 0}, occupancy.options());
  const uint8_t* coarse_or_null = hierarchical ? in<uint8_t>(coarse) : nullptr;
  const Tensor counts = at::zeros({arguments.rays + 1}, like.options().dtype(at::kLong));
  {
    const c10::cuda::CUDAGuard guard(like.device());
    if (hierarchical) {
      const int code = cuda::march_coarse(c10::cuda::getCurrentCUDAStream().stream(), arguments.occupancy,
                                          arguments.resolution, out<uint8_t>(coarse));
      TORCH_CHECK(code == 0, "medrecon::march_coarse: CUDA launch failed: ",
                  cudaGetErrorString(static_cast<cudaError_t>(code)));
    }
  }
  {
    MR_LAUNCH_CUDA(like, march_count, arguments, coarse_or_null, out<int64_t>(counts) + 1);
  }
  const Tensor offsets = at::cumsum(counts, 0);
  const Intervals found(offsets[arguments.rays].template item<int64_t>(), like);  // the host waits here: it makes room
  MR_LAUNCH_CUDA(like, march_write, arguments, coarse_or_null, in<int64_t>(offsets), out<int32_t>(found.ray),
                 out<T>(found.t0), out<T>(found.t1));
  return {offsets, found.ray, found.t0, found.t1};
#else
  TORCH_CHECK(false, "medrecon::march_rays: built without CUDA");
#endif
}

Packed march_rays(const Tensor& origins, const Tensor& directions, const Tensor& near, const Tensor& far,
                  const Tensor& occupancy, int64_t resolution, double step, double cone, const std::optional<Tensor>& jitter,
                  int64_t max_samples, bool contract) {
  const MarchInputs inputs("march_rays", origins, directions, near, far, occupancy, jitter, resolution, step, cone,
                           max_samples, contract);
  const auto run = [&](auto scalar) {
    using T = decltype(scalar);
    const cpu::MarchArguments<T> arguments = inputs.arguments<T>();
    return origins.is_cuda() ? march_on_cuda<T>(arguments, inputs.origins, inputs.occupancy)
                             : march_on_cpu<T>(arguments, inputs.origins);
  };
  return origins.scalar_type() == at::kFloat ? run(float{}) : run(double{});
}

void schemas(torch::Library& m) {
  m.def(
      "march_rays(Tensor origins, Tensor directions, Tensor near, Tensor far, Tensor occupancy, int resolution, float step,"
      " float cone, Tensor? jitter, int max_samples, bool contract=False) -> (Tensor, Tensor, Tensor, Tensor)",
      kTags);
}

void implement(torch::Library& m) { m.impl("march_rays", &march_rays); }

}  // namespace
}  // namespace medrecon::march_op

MR_SCHEMAS(medrecon::march_op::schemas)
MR_IMPLEMENTATIONS(medrecon::march_op::implement)

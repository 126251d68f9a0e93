// SPDX-License-Identifier: Apache-2.0
// Splits the rays of a fused field into a fixed number of chunks, each with gradients of its own, and adds these up in one
// fixed order: results do not depend on the number of threads.
#include "field.h"

#include <vector>

#include "field_pack.h"
#include "field_plan.h"
#include "parallel.h"

namespace medrecon::cpu {
namespace {

// As many chunks as many processors need, fewer where the network is so large that the sum of their gradients would count.
int64_t chunks_of(const FieldPlan& plan, int64_t rays) {
  constexpr int64_t elements = int64_t{1} << 22, most = 64, least = 8;
  return std::min(rays, std::min(most, std::max(least, elements / plan.size)));
}

}  // namespace

template <typename T>
void fused_field(const FieldShape& shape, const FieldTask<T>& task) {
  const FieldKernels<T>& kernels = field_kernels<T>();
  const FieldPlan plan(shape, task.samples, kernels.lanes, kernels.block);
  const bool differentiate = task.grad_parameters != nullptr;
  const auto network = aligned<T>(plan.packed_size);
  pack_network(plan, task.parameters, network.get());

  const int64_t chunks = chunks_of(plan, task.rays);
  const auto gradients = aligned<T>(differentiate ? std::max<int64_t>(1, chunks) * plan.size : 0);
  std::vector<double> losses(static_cast<size_t>(chunks));
  parallel_ranges(chunks, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = aligned<T>(kernels.scratch_size(plan));
    for (int64_t c = begin; c < end; ++c) {
      T* gradient = differentiate ? gradients.get() + c * plan.size : nullptr;
      if (differentiate) std::fill(gradient, gradient + plan.size, T(0));
      kernels.run(plan, task, network.get(), c * task.rays / chunks, (c + 1) * task.rays / chunks, scratch.get(), gradient,
                  &losses[static_cast<size_t>(c)]);
    }
  });
  if (task.loss != nullptr) {
    double loss = 0;
    for (const double part : losses) loss += part;
    *task.loss = static_cast<T>(loss);
  }
  if (!differentiate) return;
  T* total = gradients.get();
  if (chunks == 0) std::fill(total, total + plan.size, T(0));
  parallel_ranges(plan.size, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t c = 1; c < chunks; ++c) {
      const T* part = total + c * plan.size;
      for (int64_t k = begin; k < end; ++k) total[k] += part[k];
    }
  });
  unpack_network(plan, total, task.grad_parameters);
}

template void fused_field<float>(const FieldShape&, const FieldTask<float>&);
template void fused_field<double>(const FieldShape&, const FieldTask<double>&);

}  // namespace medrecon::cpu

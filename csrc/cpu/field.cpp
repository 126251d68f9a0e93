// SPDX-License-Identifier: Apache-2.0
// Splits the rays of a fused field into a fixed number of chunks, each with gradients of its own, and adds these up in one
// fixed order: results do not depend on the number of threads.
#include "field.h"

#include <memory>
#include <new>
#include <vector>

#include "field_plan.h"
#include "parallel.h"

namespace medrecon::cpu {
namespace {

constexpr std::align_val_t kAlignment{64};

struct Free {
  void operator()(void* p) const { ::operator delete(p, kAlignment); }
};

template <typename T>
std::unique_ptr<T[], Free> aligned(int64_t count) {
  return std::unique_ptr<T[], Free>(static_cast<T*>(::operator new(sizeof(T) * static_cast<size_t>(count), kAlignment)));
}

// As many chunks as many processors need, fewer where the network is so large that the sum of their gradients would count.
int64_t chunks_of(const FieldPlan& plan, int64_t rays) {
  constexpr int64_t elements = int64_t{1} << 22, most = 64, least = 8;
  return std::min(rays, std::min(most, std::max(least, elements / plan.size)));
}

template <typename T>
void pack(const FieldPlan& plan, const T* p, T* network) {
  const FieldShape& s = plan.shape;
  std::fill(network, network + plan.packed_size, T(0));
  for (int64_t i = 0; i < s.layers; ++i) {
    const T* weight = p + s.trunk_weight(i);
    const int64_t k = s.inputs(i);
    for_each_in_panels(k, plan.width, plan.lanes, [&](int64_t place, int64_t row, int64_t column) {
      if (column < s.width) network[plan.trunk[i] + place] = weight[column * k + row];
    });
    std::copy_n(p + s.trunk_bias(i), s.width, network + plan.trunk_bias[i]);
    if (i == 0) continue;
    for_each_in_panels(s.width, plan.width, plan.lanes, [&](int64_t place, int64_t row, int64_t column) {
      if (column < s.width) network[plan.trunk_back[i] + place] = weight[row * k + column];
    });
  }
  std::copy_n(p + s.density_weight(), s.width, network + plan.density);
  const T* weight = p + s.colour_weight();
  for_each_in_panels(s.width, plan.colour, plan.lanes, [&](int64_t place, int64_t row, int64_t column) {
    if (column < s.colour_width) network[plan.colour_weight + place] = weight[column * s.width + row];
  });
  for_each_in_panels(s.colour_width, plan.width, plan.lanes, [&](int64_t place, int64_t row, int64_t column) {
    if (column < s.width) network[plan.colour_back + place] = weight[row * s.width + column];
  });
  for (int64_t k = 0; k < 3; ++k) {
    std::copy_n(p + s.head_weight() + k * s.colour_width, s.colour_width, network + plan.head + k * plan.colour);
    network[plan.scalars + k] = p[s.head_bias() + k];
  }
  network[plan.scalars + 3] = p[s.density_bias()];
}

template <typename T>
void unpack(const FieldPlan& plan, const T* gradient, T* p) {
  const FieldShape& s = plan.shape;
  for (int64_t i = 0; i < s.layers; ++i) {
    T* weight = p + s.trunk_weight(i);
    const int64_t k = s.inputs(i);
    for_each_in_panels(k, plan.width, plan.lanes, [&](int64_t place, int64_t row, int64_t column) {
      if (column < s.width) weight[column * k + row] = gradient[plan.trunk[i] + place];
    });
    std::copy_n(gradient + plan.trunk_bias[i], s.width, p + s.trunk_bias(i));
  }
  std::copy_n(gradient + plan.density, s.width, p + s.density_weight());
  T* weight = p + s.colour_weight();
  for_each_in_panels(s.width, plan.colour, plan.lanes, [&](int64_t place, int64_t row, int64_t column) {
    if (column < s.colour_width) weight[column * s.width + row] = gradient[plan.colour_weight + place];
  });
  for (int64_t k = 0; k < 3; ++k) {
    std::copy_n(gradient + plan.head + k * plan.colour, s.colour_width, p + s.head_weight() + k * s.colour_width);
    p[s.head_bias() + k] = gradient[plan.scalars + k];
  }
  p[s.density_bias()] = gradient[plan.scalars + 3];
}

}  // namespace

template <typename T>
void fused_field(const FieldShape& shape, const FieldTask<T>& task) {
  const FieldKernels<T>& kernels = field_kernels<T>();
  const FieldPlan plan(shape, task.samples, kernels.lanes, kernels.block);
  const bool differentiate = task.grad_parameters != nullptr;
  const auto network = aligned<T>(plan.packed_size);
  pack(plan, task.parameters, network.get());

  const int64_t chunks = chunks_of(plan, task.rays);
  const auto gradients = aligned<T>(differentiate ? std::max<int64_t>(1, chunks) * plan.size : 0);
  std::vector<double> losses(static_cast<size_t>(chunks));
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
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
  at::parallel_for(0, plan.size, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t c = 1; c < chunks; ++c) {
      const T* part = total + c * plan.size;
      for (int64_t k = begin; k < end; ++k) total[k] += part[k];
    }
  });
  unpack(plan, total, task.grad_parameters);
}

template void fused_field<float>(const FieldShape&, const FieldTask<float>&);
template void fused_field<double>(const FieldShape&, const FieldTask<double>&);

}  // namespace medrecon::cpu

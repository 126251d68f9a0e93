// SPDX-License-Identifier: Apache-2.0
// Splits the rays of a fused grid field into a fixed number of groups, each with gradients of its own, and adds these up in
// one fixed order; each level of the table is summed by one thread, in the order of the rays. Results do not depend on the
// number of threads.
#include "fused_grid.h"

#include <atomic>
#include <cmath>
#include <vector>

#include "field_pack.h"
#include "fused_grid_kernels.h"
#include "parallel.h"

namespace medrecon::cpu {
namespace {

constexpr int64_t kRays = 32, kMostRows = int64_t{1} << 16, kMostGroups = 64;

// The most intervals that a ray can have in the cube.
template <typename T>
int64_t most_intervals(const MarchArguments<T>& march) {
  double slowest = INFINITY;
  for (int64_t r = 0; r < march.rays; ++r) {
    const T* d = march.directions + 3 * r;
    const double speed = std::sqrt(double(d[0]) * d[0] + double(d[1]) * d[1] + double(d[2]) * d[2]);
    slowest = std::min(slowest, speed);
  }
  // The cube's diagonal is 1.73; no bent ray is longer than half the rim of the contracted space, pi / 2, but where space is
  // contracted most, steps fall short.
  const double longest = 2 / (slowest * march.step) + (march.contract ? 16 : 4);
  return longest < static_cast<double>(march.max_samples) ? static_cast<int64_t>(longest) : march.max_samples;
}

// Calls body(i, scratch) for i < count, with memory of each thread's own; whoever is free takes the next.
template <typename T, typename Body>
void in_any_order(int64_t count, int64_t scratch_size, const Body& body) {
  std::atomic<int64_t> next{0};
  parallel_ranges(std::min<int64_t>(count, threads()), 1, [&](int64_t, int64_t) {
    const auto scratch = aligned<T>(scratch_size);
    for (int64_t i = next++; i < count; i = next++) body(i, scratch.get());
  });
}

}  // namespace

template <typename T>
void fused_grid(const FieldShape& shape, const FusedGridTask<T>& task) {
  const FusedGridKernels<T>& kernels = fused_grid_kernels<T>();
  const OccupancyLevels occupancy(task.march.occupancy, task.march.resolution, task.march.rays, task.march.contract);
  const int64_t rays = task.march.rays, most = std::max<int64_t>(1, most_intervals(task.march));
  const int64_t batch = std::min(kRays, std::max<int64_t>(1, kMostRows / most));
  // A wave has at least one row, and is filled up to whole blocks.
  const int64_t space = round_up((batch + kernels.block) * most, kernels.block * kernels.lanes) + kernels.lanes;
  const FusedGridPlan<T> plan{&task,
                              FieldPlan(shape, 1, kernels.lanes, kernels.block),
                              grid_levels(task.resolutions, task.levels, task.log2_size),
                              occupancy.grid(),
                              batch,
                              space,
                              most,
                              round_up(shape.features, kernels.lanes)};
  const bool differentiate = task.grad_table != nullptr;
  const auto network = aligned<T>(plan.network.packed_size);
  pack_network(plan.network, task.parameters, network.get());

  const int64_t groups = std::min((rays + kRays - 1) / kRays, kMostGroups), size = plan.network.size;
  const auto gradients = aligned<T>(differentiate ? std::max<int64_t>(1, groups) * size : 0);
  std::vector<double> losses(static_cast<size_t>(groups));
  std::vector<std::vector<GridTrace<T>>> traces(static_cast<size_t>(groups));
  in_any_order<T>(groups, kernels.scratch_size(plan), [&](int64_t g, T* scratch) {
    T* gradient = differentiate ? gradients.get() + g * size : nullptr;
    if (differentiate) std::fill(gradient, gradient + size, T(0));
    kernels.run(plan, network.get(), g * rays / groups, (g + 1) * rays / groups, scratch, gradient, &losses[g],
                &traces[g]);
  });
  if (task.loss != nullptr) {
    double loss = 0;
    for (const double part : losses) loss += part;
    *task.loss = static_cast<T>(loss);
  }
  if (!differentiate) return;
  T* total = gradients.get();
  if (groups == 0) std::fill(total, total + size, T(0));
  for (int64_t g = 1; g < groups; ++g) {
    for (int64_t k = 0; k < size; ++k) total[k] += total[g * size + k];
  }
  unpack_network(plan.network, total, task.grad_parameters);
  // the largest first: those take longest
  in_any_order<T>(task.levels, 0, [&](int64_t i, T*) { kernels.scatter(plan, task.levels - 1 - i, traces); });
}

template void fused_grid<float>(const FieldShape&, const FusedGridTask<float>&);
template void fused_grid<double>(const FieldShape&, const FusedGridTask<double>&);

}  // namespace medrecon::cpu

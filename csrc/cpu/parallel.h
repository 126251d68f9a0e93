// SPDX-License-Identifier: Apache-2.0
// Splits a loop over torch's own threads, so that torch.set_num_threads also governs these kernels.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

namespace medrecon::cpu {

// work: roughly how many elementary functions one index costs; a thread should get some thousands of them.
template <typename Body>
void parallel_for(int64_t count, int64_t work, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, work));
  at::parallel_for(0, count, grain, body);
}

}  // namespace medrecon::cpu

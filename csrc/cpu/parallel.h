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

// body(begin, end) for a count of large pieces of work: side by side where there are as many as threads; else one after the
// other, so that each can use all threads.
template <typename Body>
void parallel_or_in_turn(int64_t count, const Body& body) {
  if (count > 1 && count >= at::get_num_threads()) {
    at::parallel_for(0, count, 1, body);
  } else if (count > 0) {
    body(0, count);
  }
}

}  // namespace medrecon::cpu

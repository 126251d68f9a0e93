// SPDX-License-Identifier: Apache-2.0
// Splits a loop over torch's own threads, so that torch.set_num_threads also governs these kernels.
//
// With MR_OWN_THREADS the loops run on four std::threads instead: the thread sanitizer sees how those wait for each other,
// which it cannot see of an OpenMP library that was compiled without it (benchmarks/sanitize.py).
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(MR_OWN_THREADS)
#include <thread>
#include <vector>
#else
#include <ATen/Parallel.h>
#endif

namespace medrecon::cpu {

#if defined(MR_OWN_THREADS)

inline int64_t threads() { return 4; }

// body(begin, end) for parts of at least `grain`; inside another such loop in one piece.
template <typename Body>
void parallel_ranges(int64_t count, int64_t grain, const Body& body) {
  static thread_local bool inside = false;
  const int64_t parts = inside ? 1 : std::min(threads(), (count + grain - 1) / grain);
  if (parts <= 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
  std::vector<std::thread> team;
  for (int64_t p = 0; p < parts; ++p) {
    team.emplace_back([&body, count, parts, p] {
      inside = true;
      body(p * count / parts, (p + 1) * count / parts);
    });
  }
  for (std::thread& member : team) member.join();
}

#else

inline int64_t threads() { return at::get_num_threads(); }

template <typename Body>
void parallel_ranges(int64_t count, int64_t grain, const Body& body) {
  at::parallel_for(0, count, grain, body);
}

#endif

// work: roughly how many elementary functions one index costs; a thread should get some thousands of them.
template <typename Body>
void parallel_for(int64_t count, int64_t work, const Body& body) {
  parallel_ranges(count, std::max<int64_t>(1, 4096 / std::max<int64_t>(1, work)), body);
}

// body(begin, end) for a count of large pieces of work: side by side where there are as many as threads; else one after the
// other, so that each can use all threads.
template <typename Body>
void parallel_or_in_turn(int64_t count, const Body& body) {
  if (count > 1 && count >= threads()) {
    parallel_ranges(count, 1, body);
  } else if (count > 0) {
    body(0, count);
  }
}

}  // namespace medrecon::cpu

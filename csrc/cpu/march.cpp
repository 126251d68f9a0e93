// SPDX-License-Identifier: Apache-2.0
#include "march.h"

#include <algorithm>

#include "../core/march.h"
#include "parallel.h"

namespace medrecon::cpu {
namespace {

constexpr int64_t kBlock = 64;  // rays whose intervals are kept together

}  // namespace

std::vector<uint8_t> coarse_grid(const uint8_t* bits, int64_t resolution, int64_t rays) {
  const int64_t r = resolution / kCoarse;
  if (resolution % kCoarse != 0 || rays * 16 < r * r) return {};
  std::vector<uint8_t> coarse(static_cast<size_t>(r * r * r));
  parallel_for(r * r, r, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t i = 0; i < r; ++i) coarse[row * r + i] = any_occupied(bits, resolution, i, row % r, row / r);
    }
  });
  return coarse;
}

template <typename T>
Marched<T>::Marched(const MarchArguments<T>& a, int64_t* offsets) : rays_(a.rays) {
  const std::vector<uint8_t> coarse = coarse_grid(a.occupancy, a.resolution, a.rays);
  const Occupancy grid{a.occupancy, coarse.empty() ? nullptr : coarse.data(), a.resolution};
  posts_.resize(static_cast<size_t>((a.rays + kBlock - 1) / kBlock));
  parallel_for(static_cast<int64_t>(posts_.size()), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      std::vector<T>& posts = posts_[block];
      const auto emit = [&posts](T t0, T t1) {
        posts.push_back(t0);
        posts.push_back(t1);
      };
      for (int64_t ray = block * kBlock; ray < std::min(a.rays, (block + 1) * kBlock); ++ray) {
        offsets[ray + 1] = march_ray(grid, a.origins + 3 * ray, a.directions + 3 * ray, a.near[ray], a.far[ray], a.step, a.cone,
                                     a.jitter == nullptr ? T(0) : a.jitter[ray], a.max_samples, emit);
      }
    }
  });
  offsets[0] = 0;
  for (int64_t ray = 0; ray < a.rays; ++ray) offsets[ray + 1] += offsets[ray];
}

template <typename T>
void Marched<T>::write(const int64_t* offsets, int32_t* ray, T* t0, T* t1) const {
  parallel_for(static_cast<int64_t>(posts_.size()), 256, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = offsets[block * kBlock];
      const T* posts = posts_[block].data();
      for (int64_t r = block * kBlock; r < std::min(rays_, (block + 1) * kBlock); ++r) {
        for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
          ray[i] = static_cast<int32_t>(r);
          t0[i] = posts[2 * (i - first)];
          t1[i] = posts[2 * (i - first) + 1];
        }
      }
    }
  });
}

template class Marched<float>;
template class Marched<double>;

}  // namespace medrecon::cpu

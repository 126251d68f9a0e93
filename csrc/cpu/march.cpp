// SPDX-License-Identifier: Apache-2.0
#include "march.h"

#include <algorithm>

#include "parallel.h"

namespace medrecon::cpu {
namespace {

constexpr int64_t kBlock = 64;  // rays whose intervals are kept together

}  // namespace

OccupancyLevels::OccupancyLevels(const uint8_t* bits, int64_t resolution, int64_t rays, bool contracted)
    : bits_(bits), resolution_(resolution), box_{}, contracted_(contracted) {
  const int64_t r = resolution / kCoarse, q = r / kCoarse;
  if (contracted || resolution % kCoarse != 0 || rays * 16 < r * r) return;
  coarse_.resize(static_cast<size_t>(r * r * r));
  std::vector<uint8_t> filled(static_cast<size_t>(r * r));  // rows of coarse cells
  parallel_for(r * r, r, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t i = 0; i < r; ++i) {
        filled[row] |= coarse_[row * r + i] = any_occupied(bits, resolution, i, row % r, row / r);
      }
    }
  });
  std::vector<uint8_t> columns(static_cast<size_t>(r));
  int64_t low[3] = {0, r, r}, high[3] = {0, 0, 0};
  for (int64_t row = 0; row < r * r; ++row) {
    if (!filled[row]) continue;
    const int64_t place[2] = {row % r, row / r};
    for (int j = 0; j < 2; ++j) {
      low[j + 1] = std::min(low[j + 1], place[j]);
      high[j + 1] = std::max(high[j + 1], place[j] + 1);
    }
    for (int64_t i = 0; i < r; ++i) columns[i] |= coarse_[row * r + i];
  }
  while (low[0] < r && !columns[low[0]]) ++low[0];
  for (int64_t i = 0; i < r; ++i) high[0] = columns[i] ? i + 1 : high[0];
  for (int j = 0; j < 3; ++j) {
    box_[2 * j] = kCoarse * low[j];
    box_[2 * j + 1] = kCoarse * high[j];
  }
  if (r % kCoarse != 0) return;
  coarser_.resize(static_cast<size_t>(q * q * q));
  for (int64_t row = 0; row < r * r; ++row) {
    if (!filled[row]) continue;
    uint8_t* to = coarser_.data() + q * (row % r / kCoarse + q * (row / r / kCoarse));
    for (int64_t i = 0; i < r; ++i) to[i / kCoarse] |= coarse_[row * r + i];
  }
}

Occupancy OccupancyLevels::grid() const {
  if (coarse_.empty()) return {bits_, nullptr, resolution_, nullptr, nullptr, contracted_};
  return {bits_, coarse_.data(), resolution_, coarser_.empty() ? nullptr : coarser_.data(), box_};
}

template <typename T>
Marched<T>::Marched(const MarchArguments<T>& a, int64_t* offsets) : rays_(a.rays) {
  const OccupancyLevels levels(a.occupancy, a.resolution, a.rays, a.contract);
  const Occupancy grid = levels.grid();
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

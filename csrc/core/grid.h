// SPDX-License-Identifier: Apache-2.0
// A multiresolution hash grid (Mueller et al. 2022, "Instant neural graphics primitives", sec. 3), trilinear, and its adjoints.
// Two things differ from the paper. The hash is x + (y P1 xor z P2), so that the two corners along x are neighbours in
// memory: four reads a level instead of eight. And a level may be faded by the size of what is looked up (Zip-NeRF).
#pragma once

#include <cstring>

#include "hd.h"

namespace medrecon {

constexpr uint32_t kPrimeY = 2654435761u, kPrimeZ = 805459861u;
constexpr int kMostLevels = 32;
constexpr int64_t kLargestResolution = int64_t{1} << 20, kLargestLog2Size = 30;

// Where the nodes 0..resolution of each axis lie among the entries [offset, offset + entries) of the table.
struct GridLevel {
  int64_t offset, entries;
  uint32_t resolution;
  uint32_t stride_y, stride_z;  // dense: of nodes; hashed: the primes
  uint32_t mask;                // hashed: 2^log2_size - 1; dense: all ones
  bool hashed;
};

struct GridLevels {
  GridLevel level[kMostLevels];
  int64_t count, entries;
};

// The levels lie one after the other; one whose nodes fit into 2^log2_size entries is stored densely, x fastest.
inline GridLevels grid_levels(const int64_t* resolutions, int64_t count, int64_t log2_size) {
  GridLevels all{};
  all.count = count;
  for (int64_t l = 0; l < count; ++l) {
    GridLevel& level = all.level[l];
    const int64_t nodes = resolutions[l] + 1, size = int64_t{1} << log2_size;
    level.resolution = static_cast<uint32_t>(resolutions[l]);
    level.hashed = nodes * nodes * nodes > size;
    level.entries = level.hashed ? size : nodes * nodes * nodes;
    level.mask = level.hashed ? static_cast<uint32_t>(size - 1) : ~uint32_t{0};
    level.stride_y = level.hashed ? kPrimeY : static_cast<uint32_t>(nodes);
    level.stride_z = level.hashed ? kPrimeZ : static_cast<uint32_t>(nodes * nodes);
    level.offset = all.entries;
    all.entries += level.entries;
  }
  return all;
}

// The four edges along x of the cell around a point: entry of the node at x, and its weight; the node at x + 1 is
// right_of(level, left[k]). Edges are (y, z), (y + 1, z), (y, z + 1), (y + 1, z + 1).
template <typename T>
struct GridCell {
  uint32_t left[4];
  T fraction[3];
};

MR_HD uint32_t right_of(const GridLevel& level, uint32_t left) { return (left + 1) & level.mask; }

// A coordinate moved into [0, 1]; 0 for NaN.
template <typename T>
MR_HD T grid_inside(T x) {
  return x > T(0) ? (x < T(1) ? x : T(1)) : T(0);
}

// Added to a fraction: NaN where any coordinate is, else 0.
template <typename T>
MR_HD T grid_poison(const T x[3]) {
  const bool numbers = x[0] == x[0] && x[1] == x[1] && x[2] == x[2];
  return numbers ? T(0) : static_cast<T>(NAN);
}

// Cell and fraction of a coordinate in [0, 1]. No comparison of floating numbers: GCC makes no vector code of those.
template <typename T>
MR_HD uint32_t grid_node(T inside, uint32_t resolution, T* fraction) {
  const T scaled = inside * static_cast<T>(static_cast<int32_t>(resolution));
  const int32_t floor = static_cast<int32_t>(scaled), last = static_cast<int32_t>(resolution) - 1;
  const int32_t node = floor < last ? floor : last;
  *fraction = scaled - static_cast<T>(node);
  return static_cast<uint32_t>(node);
}

template <typename T>
MR_HD GridCell<T> grid_cell(const GridLevel& level, const T x[3]) {
  GridCell<T> cell;
  uint32_t node[3];
  for (int j = 0; j < 3; ++j) node[j] = grid_node(grid_inside(x[j]), level.resolution, cell.fraction + j);
  cell.fraction[0] += grid_poison(x);
  const uint32_t y0 = node[1] * level.stride_y, y1 = y0 + level.stride_y;
  const uint32_t z0 = node[2] * level.stride_z, z1 = z0 + level.stride_z;
  const uint32_t edges[4] = {level.hashed ? y0 ^ z0 : y0 + z0, level.hashed ? y1 ^ z0 : y1 + z0,
                             level.hashed ? y0 ^ z1 : y0 + z1, level.hashed ? y1 ^ z1 : y1 + z1};
  for (int k = 0; k < 4; ++k) cell.left[k] = (node[0] + edges[k]) & level.mask;
  return cell;
}

template <typename T>
MR_HD T edge_weight(const GridCell<T>& cell, int k) {
  const T y = k & 1 ? cell.fraction[1] : T(1) - cell.fraction[1];
  const T z = k & 2 ? cell.fraction[2] : T(1) - cell.fraction[2];
  return y * z;
}

// The smaller of two numbers >= 0 (of NaN and a number, the number): their bits are in the order of their values.
MR_HD float smaller(float x, float y) {
  int32_t a, b;
  std::memcpy(&a, &x, sizeof(a));
  std::memcpy(&b, &y, sizeof(b));
  a = a < b ? a : b;
  std::memcpy(&x, &a, sizeof(a));
  return x;
}

// erf of a number >= 0. In float it is x P(x^2) / Q(x^2), fitted to the least relative error on [0, 4] (3e-8; 4e-7 with float
// rounding), and 1 beyond, also for NaN.
MR_HD float error_function(float x) {
  const float clipped = smaller(x, 4.05f), z = clipped * clipped;
  const float p =
      ((((1.9869310e-06f * z + 2.8454710e-04f) * z + 3.8824908e-03f) * z + 5.3099073e-02f) * z + 1.9352509e-01f) * z +
      1.1283791f;
  const float q =
      ((((3.7420756e-05f * z + 1.1853660e-03f) * z + 1.5205527e-02f) * z + 1.1534172e-01f) * z + 5.0483972e-01f) * z + 1.f;
  return smaller(clipped * p / q, 1.f);
}

MR_HD double error_function(double x) {
#if defined(__CUDA_ARCH__)
  return erf(x);
#else
  return std::erf(x);
#endif
}

// How much of a level of this resolution is left of a Gaussian of standard deviation sigma (in units of the whole grid):
// erf(1 / sqrt(8 sigma^2 n^2)), the share of it within half a cell on one axis (Zip-NeRF, Barron et al. 2023, sec. 3.2).
template <typename T>
MR_HD T fade(T sigma, T resolution) {
  const T size = std::fabs(sigma) * resolution;
  return error_function(T(0.35355339059327376220) / size) + T(0) / (T(1) + size);  // NaN of NaN
}

// d fade / d sigma = -2 / sqrt(pi) u exp(-u^2) / sigma with u = 1 / (sqrt(8) |sigma| n); 0 at sigma = 0.
template <typename T>
MR_HD T fade_slope(T sigma, T resolution) {
  const T u = T(0.35355339059327376220) / (std::fabs(sigma) * resolution);
  const T bell = exponential(-u * u);
  return bell == T(0) || u == T(0) ? T(0) : T(-1.1283791670955125739) * (u / sigma) * bell;
}

// Feature j of one level, not faded; table points to the level's first entry.
template <typename T>
MR_HD T grid_feature(const GridLevel& level, const GridCell<T>& cell, int64_t features, int64_t j, const T* table) {
  T left = T(0), right = T(0);
  for (int k = 0; k < 4; ++k) {
    left += edge_weight(cell, k) * table[features * static_cast<int64_t>(cell.left[k]) + j];
    right += edge_weight(cell, k) * table[features * static_cast<int64_t>(right_of(level, cell.left[k])) + j];
  }
  return (T(1) - cell.fraction[0]) * left + cell.fraction[0] * right;
}

// Adds d (grad . features) / dx to slope, for features faded by `faded`; returns grad . features, not faded.
template <typename T>
MR_HD T grid_features_backward(const GridLevel& level, const GridCell<T>& cell, int64_t features, const T* table,
                               const T* grad, const T x[3], T faded, T slope[3]) {
  T left[4], right[4];  // grad . entry at the ends of each edge
  for (int k = 0; k < 4; ++k) {
    const T* at_left = table + features * static_cast<int64_t>(cell.left[k]);
    const T* at_right = table + features * static_cast<int64_t>(right_of(level, cell.left[k]));
    left[k] = right[k] = T(0);
    for (int64_t j = 0; j < features; ++j) {
      left[k] += grad[j] * at_left[j];
      right[k] += grad[j] * at_right[j];
    }
  }
  const T fx = cell.fraction[0], fy = cell.fraction[1], fz = cell.fraction[2];
  T along_x = T(0), edge[4];
  for (int k = 0; k < 4; ++k) {
    along_x += edge_weight(cell, k) * (right[k] - left[k]);
    edge[k] = (T(1) - fx) * left[k] + fx * right[k];
  }
  const T low = (T(1) - fy) * edge[0] + fy * edge[1], high = (T(1) - fy) * edge[2] + fy * edge[3];
  const T along[3] = {along_x, (T(1) - fz) * (edge[1] - edge[0]) + fz * (edge[3] - edge[2]), high - low};
  for (int i = 0; i < 3; ++i) {  // what was moved to the border does not move along with x
    if (!(x[i] < T(0) || x[i] > T(1))) slope[i] += faded * static_cast<T>(level.resolution) * along[i];
  }
  return (T(1) - fz) * low + fz * high;
}

// Gradients of one sample's position and, where there is a sigma, of that; over all levels, in their order.
template <typename T>
MR_HD void grid_sample_backward(const GridLevels& levels, int64_t features, const T* grad, const T x[3], const T* sigma,
                                const T* table, T* grad_x, T* grad_sigma) {
  T slope[3] = {}, of_sigma = T(0);
  for (int64_t l = 0; l < levels.count; ++l) {
    const GridLevel& level = levels.level[l];
    const T resolution = static_cast<T>(level.resolution), faded = sigma == nullptr ? T(1) : fade(*sigma, resolution);
    const T sum = grid_features_backward(level, grid_cell(level, x), features, table + level.offset * features,
                                         grad + l * features, x, faded, slope);
    if (sigma != nullptr) of_sigma += fade_slope(*sigma, resolution) * sum;
  }
  for (int j = 0; j < 3; ++j) grad_x[j] = slope[j];
  if (sigma != nullptr) *grad_sigma = of_sigma;
}

}  // namespace medrecon

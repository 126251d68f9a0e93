// SPDX-License-Identifier: Apache-2.0
// Bodies of grid_passes.h; included once per instruction set, inside a namespace of its own.

#include "grid_cells.inl.h"

template <typename T>
void take_points(const GridArrays<T>& arrays, int64_t begin, int64_t count, Points<T>& points) {
  for (int64_t s = 0; s < count; ++s) {
    const T* x = arrays.x + 3 * (begin + s);
    for (int j = 0; j < 3; ++j) points.inside[j][s] = grid_inside(x[j]);
    points.poison[s] = grid_poison(x);
  }
  if (arrays.sigma != nullptr) {
    for (int64_t s = 0; s < count; ++s) points.sigma[s] = arrays.sigma[begin + s];
  }
}

template <int F, typename T>
void forward_of(const GridArrays<T>& arrays, int64_t begin, int64_t end, const T* table, T* out) {
  const int64_t features = F > 0 ? F : arrays.features, stride = arrays.levels->count * features;
  Points<T> points;
  Cells<T> cells;
  for (int64_t first = begin; first < end; first += kCells) {
    const int64_t count = std::min(kCells, end - first);
    take_points(arrays, first, count, points);
    for (int64_t l = 0; l < arrays.levels->count; ++l) {
      const GridLevel& level = arrays.levels->level[l];
      find_cells(level, arrays.sigma != nullptr, count, points, cells);
      gather<F>(level, cells, count, features, table + level.offset * features, stride,
                out + first * stride + l * features);
    }
  }
}

template <int F, typename T>
void backward_of(const GridArrays<T>& arrays, int64_t begin, int64_t end, int64_t l, const T* grad, T* grad_table) {
  const int64_t features = F > 0 ? F : arrays.features, stride = arrays.levels->count * features;
  const GridLevel& level = arrays.levels->level[l];
  Points<T> points;
  Cells<T> cells;
  for (int64_t first = begin; first < end; first += kCells) {
    const int64_t count = std::min(kCells, end - first);
    take_points(arrays, first, count, points);
    find_cells(level, arrays.sigma != nullptr, count, points, cells);
    scatter<F>(level, cells, count, features, grad + first * stride + l * features, stride,
               grad_table + level.offset * features);
  }
}

template <typename T>
void forward(const GridArrays<T>& arrays, int64_t begin, int64_t end, const T* table, T* out) {
  const auto run = arrays.features == 2 ? forward_of<2, T> : arrays.features == 4 ? forward_of<4, T> : forward_of<0, T>;
  run(arrays, begin, end, table, out);
}

template <typename T>
void backward(const GridArrays<T>& arrays, int64_t begin, int64_t end, int64_t l, const T* grad, T* grad_table) {
  const auto run = arrays.features == 2 ? backward_of<2, T> : arrays.features == 4 ? backward_of<4, T> : backward_of<0, T>;
  run(arrays, begin, end, l, grad, grad_table);
}

template <typename T>
constexpr GridPasses<T> grid_table = {forward<T>, backward<T>};

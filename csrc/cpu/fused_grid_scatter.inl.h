// SPDX-License-Identifier: Apache-2.0
// The gradient of one level of a fused grid's table from the traces of all rays, in their order. Included once per instruction
// set, after grid_cells.inl.h and fused_grid_batch.inl.h.

template <int F, typename T>
void scatter_level(const FusedGridPlan<T>& plan, int64_t l, const std::vector<std::vector<GridTrace<T>>>& traces) {
  const FusedGridTask<T>& task = *plan.task;
  const GridLevel& level = plan.levels.level[l];
  const int64_t f = F > 0 ? F : task.features;
  T* grad_table = task.grad_table + level.offset * f;
  std::fill(grad_table, grad_table + level.entries * f, T(0));
  Points<T> points;
  Cells<T> cells;
  for (const std::vector<GridTrace<T>>& group : traces) {
    for (const GridTrace<T>& trace : group) {
      for (int64_t at = 0; at < trace.rows; at += kCells) {
        const int64_t count = std::min(kCells, trace.rows - at);
        const T* place = trace.place.get() + at;
        const T* axes[3] = {place, place + trace.rows, place + 2 * trace.rows};
        place_points(axes, task.radii == nullptr ? nullptr : place + 3 * trace.rows, count, points);
        find_cells(level, task.radii != nullptr, count, points, cells);
        scatter<F>(level, cells, count, f, trace.grad.get() + (l * trace.rows + at) * f, f, grad_table);
      }
    }
  }
}

template <typename T>
void scatter_grid(const FusedGridPlan<T>& plan, int64_t level, const std::vector<std::vector<GridTrace<T>>>& traces) {
  const int64_t f = plan.task->features;
  const auto run = f == 2 ? scatter_level<2, T> : f == 4 ? scatter_level<4, T> : scatter_level<0, T>;
  run(plan, level, traces);
}

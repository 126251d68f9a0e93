// SPDX-License-Identifier: Apache-2.0
// Walks a ray through the occupied cells of a grid over the unit cube (Mueller et al. 2022, "Instant neural graphics primitives",
// appendix E.1: ray marching), on a lattice of steps that does not depend on the occupancy.
#pragma once

#include <cfloat>

#include "contract.h"
#include "hd.h"

namespace medrecon {

constexpr int64_t kCoarse = 4;  // cells along the edge of a coarse one

template <typename T>
constexpr T rounding = sizeof(T) == sizeof(float) ? T(FLT_EPSILON) : T(DBL_EPSILON);

// bits: cell (i, j, k) is bit i + R (j + R k). coarse [(R / 4)^3]: whether any of a coarse cell's is set; null: not known.
// coarser [(R / 16)^3]: the same for 4^3 coarse cells. box: of each axis the first occupied cell and the one after the last.
// contracted: the cells are places of the contracted space (contract.h), those of rays are not.
struct Occupancy {
  const uint8_t* bits;
  const uint8_t* coarse;
  int64_t resolution;
  const uint8_t* coarser = nullptr;
  const int64_t* box = nullptr;
  bool contracted = false;

  MR_HD bool occupied(int64_t i, int64_t j, int64_t k) const {
    const int64_t bit = i + resolution * (j + resolution * k);
    return (bits[bit >> 3] >> (bit & 7)) & 1;
  }
};

// Whether any cell of coarse cell (i, j, k) is occupied; R is a multiple of kCoarse, so that a row of one lies in a byte.
MR_HD bool any_occupied(const uint8_t* bits, int64_t resolution, int64_t i, int64_t j, int64_t k) {
  unsigned any = 0;
  for (int64_t z = kCoarse * k; z < kCoarse * (k + 1); ++z) {
    for (int64_t y = kCoarse * j; y < kCoarse * (j + 1); ++y) {
      const int64_t bit = kCoarse * i + resolution * (y + resolution * z);
      any |= (bits[bit >> 3] >> (bit & 7)) & 15u;
    }
  }
  return any != 0;
}

// Fence posts start, start + step, ... up to t = step / cone, and from there on each (1 + cone) times the one before, so that
// an interval is max(step, cone t) long. The first part is computed from the index: a jump ends on the very same number.
template <typename T>
struct Lattice {
  T start, step, inverse_step, growth, bend;
  int64_t index = 0;
  T t0, t1;

  MR_HD Lattice(T start_, T step_, T cone)
      : start(start_), step(step_), inverse_step(T(1) / step_), growth(T(1) + cone) {
    bend = cone > T(0) ? step / cone : static_cast<T>(INFINITY);
    t0 = start;
    t1 = next();
  }
  MR_HD T post(int64_t i) const { return start + static_cast<T>(i) * step; }
  MR_HD T next() const { return t0 > bend ? t0 * growth : post(index + 1); }
  MR_HD T middle() const { return T(0.5) * (t0 + t1); }
  MR_HD void advance() {
    t0 = t1;
    ++index;
    t1 = next();
  }

  // To the next interval whose middle is not below target; false where none can be reached.
  MR_HD bool skip(T target) {
    advance();
    const T goal = target < bend ? target : bend;
    const T ahead = (goal - t0) * inverse_step - T(0.5);  // put right below where it is one too many or few
    if (t0 <= bend && ahead >= T(1)) {
      if (!(ahead < T(1) / rounding<T>)) return false;
      int64_t to = index + static_cast<int64_t>(ahead);
      while (to > index && !(T(0.5) * (post(to - 1) + post(to)) < target && post(to - 1) <= bend)) --to;
      index = to;
      t0 = post(to);
      t1 = next();
    }
    while (middle() < target && t1 > t0) advance();
    return true;
  }
};

// Gives, one after the other, the intervals whose middle lies before `far` and in an occupied cell, until there are `most`.
// There is none for a ray with near >= far or a number that is not finite (far may be infinite), and a ray ends where a step
// is too small to move t in this number format.
//
// What is skipped is exactly what looking at every interval would have found empty: a cell is left at the earliest by the
// middles that lie within it by more than the rounding error of positions (`slack`); those nearer to its faces are looked up.
//
// Through a contracted space, where a ray is bent, intervals are equally long in that space (`contracted_step`, taken at their
// beginnings), and all are looked at.
template <typename T>
struct RayMarch {
  Occupancy grid;
  Lattice<T> at;
  T origin[3] = {}, direction[3] = {}, inverse[3] = {}, slack[3] = {};
  T far, leave;
  int64_t left;  // intervals that may still be given; 0: there are no more
  bool strides;  // few intervals lie in a cell: to look at each costs less than to leap

  MR_HD RayMarch(const Occupancy& grid_, const T* origin_, const T* direction_, T near, T far_, T step, T cone, T jitter,
                 int64_t most)
      : grid(grid_),
        at(near + jitter * (cone * near > step ? cone * near : step), step, cone),
        far(far_),
        leave(far_),
        left(0),
        strides(false) {
    const T cell_size = T(1) / static_cast<T>(grid.resolution);
    T sum = near + jitter, enter = near;
    for (int j = 0; j < 3; ++j) {
      origin[j] = origin_[j];
      sum += origin[j] + direction_[j];
      direction[j] = std::fabs(direction_[j]) < T(1e-30) ? T(0) : direction_[j];
      if (grid.contracted) continue;
      inverse[j] = T(1) / direction[j];
      slack[j] = T(8) * rounding<T> * (T(1) + std::fabs(origin[j]));
      if (direction[j] == T(0)) {
        if (!(origin[j] >= T(0) && origin[j] < T(1))) return;
        continue;
      }
      const T begin = grid.box == nullptr ? T(0) : static_cast<T>(grid.box[2 * j]) * cell_size;
      const T end = grid.box == nullptr ? T(1) : static_cast<T>(grid.box[2 * j + 1]) * cell_size;
      const T low = (begin - slack[j] - origin[j]) * inverse[j], high = (end + slack[j] - origin[j]) * inverse[j];
      const T first = low < high ? low : high, last = low < high ? high : low;
      enter = first > enter ? first : enter;
      leave = last < leave ? last : leave;
    }
    if (!(sum - sum == T(0)) || !(near < far) || most < 1 || enter > leave) return;
    if (grid.contracted) {
      at.t1 = after(at.t0);
      left = most;
      return;
    }
    if (at.middle() < enter && !at.skip(enter)) return;
    left = most;
    T fastest = T(0);
    for (int j = 0; j < 3; ++j) fastest = std::fabs(direction[j]) > fastest ? std::fabs(direction[j]) : fastest;
    strides = fastest * step > T(0.25) * cell_size;
  }

  MR_HD void place(T t, T* x) const {
    for (int j = 0; j < 3; ++j) x[j] = origin[j] + t * direction[j];
  }

  // End of the interval that begins at t in the contracted space.
  MR_HD T after(T t) const {
    T x[3];
    place(t, x);
    return t + contracted_step(x, direction, at.step);
  }

  MR_HD void advance() {
    if (!grid.contracted) return at.advance();
    at.t0 = at.t1;
    at.t1 = after(at.t0);
  }

  // The next interval; false at the end.
  MR_HD bool next(T* t0, T* t1) {
    if (left < 1) return false;
    const T size = static_cast<T>(grid.resolution), cell_size = T(1) / size;
    const int64_t last_cell = grid.resolution - 1;
    while (true) {
      const T t = at.middle();
      if (!(t < far && t <= leave && at.t1 > at.t0)) break;
      int64_t cell[3];
      bool inside = true;
      T x[3];
      place(t, x);
      if (grid.contracted) {
        Contraction<T> to;
        inside = contract(x, &to);
        for (int j = 0; j < 3; ++j) x[j] = inside ? to.place[j] : T(0);
      }
      for (int j = 0; j < 3; ++j) {
        inside = inside && x[j] >= T(0) && x[j] < T(1);
        const int64_t floor = inside ? static_cast<int64_t>(x[j] * size) : 0;
        cell[j] = floor < last_cell ? floor : last_cell;
      }
      if (!inside) {
        advance();
        continue;
      }
      if (grid.occupied(cell[0], cell[1], cell[2])) {
        *t0 = at.t0;
        *t1 = at.t1;
        --left;
        advance();
        return true;
      }
      if (grid.contracted) {
        advance();
        continue;
      }
      int64_t width = 1;
      if (grid.coarse != nullptr) {
        const int64_t r = grid.resolution / kCoarse;
        if (!grid.coarse[cell[0] / kCoarse + r * (cell[1] / kCoarse + r * (cell[2] / kCoarse))]) {
          width = kCoarse;
          if (grid.coarser != nullptr) {
            const int64_t q = r / kCoarse, w = kCoarse * kCoarse;
            if (!grid.coarser[cell[0] / w + q * (cell[1] / w + q * (cell[2] / w))]) width = w;
          }
        }
      }
      if (width == 1 && strides) {
        at.advance();
        continue;
      }
      T exit = static_cast<T>(INFINITY);
      for (int j = 0; j < 3; ++j) {
        if (direction[j] == T(0)) continue;
        const int64_t corner = cell[j] / width * width;
        const T face = direction[j] > T(0) ? static_cast<T>(corner + width) * cell_size - slack[j]
                                           : static_cast<T>(corner) * cell_size + slack[j];
        const T t_face = (face - origin[j]) * inverse[j];
        exit = t_face < exit ? t_face : exit;
      }
      if (!at.skip(exit)) break;
    }
    left = 0;
    return false;
  }
};

// Calls emit(t0, t1) for the intervals that RayMarch gives; returns how many.
template <typename T, typename Emit>
MR_HD int64_t march_ray(const Occupancy& grid, const T* origin, const T* direction, T near, T far, T step, T cone, T jitter,
                        int64_t most, const Emit& emit) {
  RayMarch<T> march(grid, origin, direction, near, far, step, cone, jitter, most);
  int64_t count = 0;
  for (T t0, t1; march.next(&t0, &t1); ++count) emit(t0, t1);
  return count;
}

}  // namespace medrecon

// SPDX-License-Identifier: Apache-2.0
// How the fused field lies in memory: matrices in panels of two vectors, work space of one tile of rows. A row is one sample
// of one ray; a tile is some rays' rows together, and all of its activations stay in the cache.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../core/field.h"
#include "field.h"

namespace medrecon::cpu {

constexpr int64_t kMostLayers = 8;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// A matrix [k, columns] in panels of two vectors of columns (the last panel may have one), each panel row after row.
// visit(place, k, column) for every element, places in ascending order.
template <typename Visit>
void for_each_in_panels(int64_t rows, int64_t columns, int64_t lanes, const Visit& visit) {
  int64_t place = 0;
  for (int64_t first = 0; first < columns; first += 2 * lanes) {
    const int64_t wide = std::min(2 * lanes, columns - first);
    for (int64_t k = 0; k < rows; ++k) {
      for (int64_t j = 0; j < wide; ++j) visit(place++, k, first + j);
    }
  }
}

struct FieldPlan {
  FieldShape shape;
  int64_t samples, lanes, block;  // lanes of a vector; rows that are multiplied together
  int64_t width, colour, half;    // rounded up to whole vectors: trunk, colour layer, the sines (and the cosines)
  int64_t rows, rays, space;      // most of a tile; rows that there is memory for: whole blocks and vectors

  // Places in the packed network; gradients are summed in the same layout.
  int64_t trunk[kMostLayers], trunk_bias[kMostLayers], density, colour_weight, head, scalars, size;
  // Transposed matrices, for the way back, follow.
  int64_t trunk_back[kMostLayers], colour_back, packed_size;

  FieldPlan(const FieldShape& s, int64_t samples_, int64_t lanes_, int64_t block_)
      : shape(s), samples(samples_), lanes(lanes_), block(block_) {
    width = round_up(s.width, lanes);
    colour = round_up(s.colour_width, lanes);
    half = round_up(3 * s.degrees, lanes);
    const int64_t wanted = s.width <= 96 ? 192 : 128;
    rows = rays = std::max(wanted, samples);
    space = round_up(rows, block * lanes);
    int64_t at = 0;
    const auto take = [&](int64_t count) { return (at += round_up(count, lanes)) - round_up(count, lanes); };
    for (int64_t i = 0; i < s.layers; ++i) {
      trunk[i] = take(s.inputs(i) * width);
      trunk_bias[i] = take(width);
    }
    density = take(width);
    colour_weight = take(s.width * colour);
    head = take(3 * colour);
    scalars = take(4);  // biases of red, green, blue and density
    size = at;
    if (s.features > 0) trunk_back[0] = take(s.width * round_up(s.features, lanes));  // the way back goes on
    for (int64_t i = 1; i < s.layers; ++i) trunk_back[i] = take(s.width * width);
    colour_back = take(s.colour_width * width);
    packed_size = at;
  }
};

// One of these for each instruction set.
template <typename T>
struct FieldKernels {
  int64_t lanes, block;
  int64_t (*scratch_size)(const FieldPlan& plan);
  // Rays [begin, end), adding to `gradient` (in the packed layout, null where not wanted) and to *loss.
  void (*run)(const FieldPlan& plan, const FieldTask<T>& task, const T* network, int64_t begin, int64_t end, T* scratch,
              T* gradient, double* loss);
};

template <typename T>
const FieldKernels<T>& field_kernels();

}  // namespace medrecon::cpu

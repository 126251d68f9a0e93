// SPDX-License-Identifier: Apache-2.0
// The flat parameters of a fused field's network to and from the panels of field_plan.h, and aligned memory for these.
#pragma once

#include <memory>
#include <new>

#include "field_plan.h"

namespace medrecon::cpu {

inline constexpr std::align_val_t kAlignment{64};

struct Free {
  void operator()(void* p) const { ::operator delete(p, kAlignment); }
};

template <typename T>
std::unique_ptr<T[], Free> aligned(int64_t count) {
  return std::unique_ptr<T[], Free>(static_cast<T*>(::operator new(sizeof(T) * static_cast<size_t>(count), kAlignment)));
}

template <typename T>
void pack_network(const FieldPlan& plan, const T* p, T* network) {
  const FieldShape& s = plan.shape;
  std::fill(network, network + plan.packed_size, T(0));
  for (int64_t i = 0; i < s.layers; ++i) {
    const T* weight = p + s.trunk_weight(i);
    const int64_t k = s.inputs(i);
    for_each_in_panels(k, plan.width, plan.lanes, [&](int64_t place, int64_t row, int64_t column) {
      if (column < s.width) network[plan.trunk[i] + place] = weight[column * k + row];
    });
    std::copy_n(p + s.trunk_bias(i), s.width, network + plan.trunk_bias[i]);
    if (i == 0) {
      if (s.features == 0) continue;
      for_each_in_panels(s.width, round_up(k, plan.lanes), plan.lanes, [&](int64_t place, int64_t row, int64_t column) {
        if (column < k) network[plan.trunk_back[0] + place] = weight[row * k + column];
      });
      continue;
    }
    for_each_in_panels(s.width, plan.width, plan.lanes, [&](int64_t place, int64_t row, int64_t column) {
      if (column < s.width) network[plan.trunk_back[i] + place] = weight[row * k + column];
    });
  }
  std::copy_n(p + s.density_weight(), s.width, network + plan.density);
  const T* weight = p + s.colour_weight();
  for_each_in_panels(s.width, plan.colour, plan.lanes, [&](int64_t place, int64_t row, int64_t column) {
    if (column < s.colour_width) network[plan.colour_weight + place] = weight[column * s.width + row];
  });
  for_each_in_panels(s.colour_width, plan.width, plan.lanes, [&](int64_t place, int64_t row, int64_t column) {
    if (column < s.width) network[plan.colour_back + place] = weight[row * s.width + column];
  });
  for (int64_t k = 0; k < 3; ++k) {
    std::copy_n(p + s.head_weight() + k * s.colour_width, s.colour_width, network + plan.head + k * plan.colour);
    network[plan.scalars + k] = p[s.head_bias() + k];
  }
  network[plan.scalars + 3] = p[s.density_bias()];
}

template <typename T>
void unpack_network(const FieldPlan& plan, const T* gradient, T* p) {
  const FieldShape& s = plan.shape;
  for (int64_t i = 0; i < s.layers; ++i) {
    T* weight = p + s.trunk_weight(i);
    const int64_t k = s.inputs(i);
    for_each_in_panels(k, plan.width, plan.lanes, [&](int64_t place, int64_t row, int64_t column) {
      if (column < s.width) weight[column * k + row] = gradient[plan.trunk[i] + place];
    });
    std::copy_n(gradient + plan.trunk_bias[i], s.width, p + s.trunk_bias(i));
  }
  std::copy_n(gradient + plan.density, s.width, p + s.density_weight());
  T* weight = p + s.colour_weight();
  for_each_in_panels(s.width, plan.colour, plan.lanes, [&](int64_t place, int64_t row, int64_t column) {
    if (column < s.colour_width) weight[column * s.width + row] = gradient[plan.colour_weight + place];
  });
  for (int64_t k = 0; k < 3; ++k) {
    std::copy_n(gradient + plan.head + k * plan.colour, s.colour_width, p + s.head_weight() + k * s.colour_width);
    p[s.head_bias() + k] = gradient[plan.scalars + k];
  }
  p[s.density_bias()] = gradient[plan.scalars + 3];
}

}  // namespace medrecon::cpu

// SPDX-License-Identifier: Apache-2.0
// The arguments of an operator that marches, checked and made dense.
#pragma once

#include <optional>

#include "../cpu/march.h"
#include "tensors.h"

namespace medrecon {

struct MarchInputs {
  Tensor origins, directions, near, far, occupancy, jitter;  // the last may be undefined
  int64_t resolution, max_samples;
  double step, cone;
  bool contract;

  int64_t rays() const { return origins.size(0); }

  MarchInputs(const char* op, const Tensor& origins_, const Tensor& directions_, const Tensor& near_, const Tensor& far_,
              const Tensor& occupancy_, const std::optional<Tensor>& jitter_, int64_t resolution_, double step_, double cone_,
              int64_t max_samples_, bool contract_)
      : resolution(resolution_), max_samples(max_samples_), step(step_), cone(cone_), contract(contract_) {
    check_floating(op, origins_, "origins");
    TORCH_CHECK(origins_.dim() == 2, op, ": origins has shape ", origins_.sizes(), ", expected [rays, 3]");
    const int64_t n = origins_.size(0);
    TORCH_CHECK(n <= INT32_MAX, op, ": ", n, " rays, expected fewer than 2^31");
    origins = dense(op, origins_, origins_, "origins", {n, 3});
    directions = dense(op, origins_, directions_, "directions", {n, 3});
    near = dense(op, origins_, near_, "near", {n});
    far = dense(op, origins_, far_, "far", {n});
    if (jitter_) jitter = dense(op, origins_, *jitter_, "jitter", {n});
    TORCH_CHECK(1 <= resolution && resolution <= 2048, op, ": resolution is ", resolution, ", expected 1 to 2048");
    TORCH_CHECK(occupancy_.scalar_type() == at::kByte, op, ": occupancy is ", occupancy_.scalar_type(), ", expected uint8");
    TORCH_CHECK(occupancy_.device() == origins_.device(), op, ": occupancy is on ", occupancy_.device());
    check_shape(op, occupancy_, "occupancy", {(resolution * resolution * resolution + 7) / 8});
    TORCH_CHECK(step > 0 && cone >= 0, op, ": step is ", step, " and cone ", cone, ", expected step > 0 and cone >= 0");
    TORCH_CHECK(!contract || cone == 0, op, ": cone is ", cone, ", which must be 0 in a contracted space");
    TORCH_CHECK(max_samples >= 0, op, ": max_samples is ", max_samples);
    occupancy = occupancy_.contiguous();
  }

  template <typename T>
  cpu::MarchArguments<T> arguments() const {
    return {rays(),
            in<T>(origins),
            in<T>(directions),
            in<T>(near),
            in<T>(far),
            jitter.defined() ? in<T>(jitter) : nullptr,
            in<uint8_t>(occupancy),
            resolution,
            static_cast<T>(step),
            static_cast<T>(cone),
            max_samples,
            contract};
  }
};

}  // namespace medrecon

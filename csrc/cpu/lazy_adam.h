// SPDX-License-Identifier: Apache-2.0
// A step of Adam that skips numbers without a gradient; for float and double.
#pragma once

#include <cstdint>

namespace medrecon::cpu {

// rate: lr / (1 - beta1^step); correction: 1 / sqrt(1 - beta2^step).
template <typename T>
struct AdamNumbers {
  T rate, beta1, beta2, eps, correction;
};

// parameter, mean and square [count] are changed where grad is not 0.
template <typename T>
void lazy_adam(int64_t count, const T* grad, const AdamNumbers<T>& numbers, T* parameter, T* mean, T* square);

}  // namespace medrecon::cpu

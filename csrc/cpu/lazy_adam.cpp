// SPDX-License-Identifier: Apache-2.0
#include "lazy_adam.h"

#include "parallel.h"
#include "vector.h"

namespace medrecon::cpu {

#define MR_KERNELS "lazy_adam.inl.h"
#include "each_isa.inl.h"

template <typename T>
void lazy_adam(int64_t count, const T* grad, const AdamNumbers<T>& numbers, T* parameter, T* mean, T* square) {
  parallel_ranges(count, int64_t{1} << 15, [&](int64_t begin, int64_t end) {
    MR_BEST(lazy_adam_part<T>)(begin, end, grad, numbers, parameter, mean, square);
  });
}

template void lazy_adam<float>(int64_t, const float*, const AdamNumbers<float>&, float*, float*, float*);
template void lazy_adam<double>(int64_t, const double*, const AdamNumbers<double>&, double*, double*, double*);

}  // namespace medrecon::cpu

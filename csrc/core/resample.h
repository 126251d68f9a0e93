// SPDX-License-Identifier: Apache-2.0
// Inverse-transform samples of a blurred histogram (mip-NeRF, Barron et al. 2021, section 3.2, eq. 18).
#pragma once

#include "hd.h"

namespace medrecon {

// The larger; NaN if either is.
template <typename T>
MR_HD T larger(T a, T b) {
  return a > b || a != a ? a : b;
}

// The cumulative histogram of one ray, walked from bin to bin; each bin costs a few operations and no memory.
template <typename T>
class CumulativeWalk {
 public:
  // t [bins + 1], weights [bins], bins >= 1
  MR_HD CumulativeWalk(int64_t bins, const T* t, const T* weights, T padding)
      : bins_(bins), t_(t), weights_(weights), padding_(padding) {
    double sum = 0;
    for (int64_t i = 0; i < bins; ++i) sum += mass(i);
    const T total = static_cast<T>(sum);
    T lack = T(1e-5) - total;  // a ray of all-zero weights without padding is sampled evenly
    if (lack < T(0)) lack = T(0);
    share_ = lack / static_cast<T>(bins);
    total_ = total + lack;
    restart();
  }

  // The place along the ray where the cumulative histogram is u, 0 <= u < 1. Ascending u are cheapest; any are right.
  MR_HD T operator()(T u) {
    if (u < below_) restart();
    while (bin_ + 1 < bins_ && !(above_ > u)) {  // a cumulative histogram of NaN ends in the last bin
      ++bin_;
      below_ = above_;
      above_ = upper();
    }
    const T width = above_ - below_;
    T part = width > T(0) ? (u - below_) / width : T(0);
    part = part < T(0) ? T(0) : (part > T(1) ? T(1) : part);
    const T t0 = t_[bin_], t1 = t_[bin_ + 1], there = t0 + part * (t1 - t0);
    return there > t1 ? t1 : there;
  }

 private:
  MR_HD void restart() {
    bin_ = 0;
    sum_ = 0;
    below_ = T(0);
    above_ = upper();
  }

  // Eq. 18: the mean of the two largest neighbours, plus the padding.
  MR_HD T mass(int64_t i) const {
    const T here = weights_[i];
    const T left = larger(weights_[i > 0 ? i - 1 : 0], here), right = larger(here, weights_[i + 1 < bins_ ? i + 1 : i]);
    return (left + right) / T(2) + padding_;
  }

  // Adds the current bin to the cumulative histogram.
  MR_HD T upper() {
    if (bin_ + 1 == bins_) return T(1);
    sum_ += (mass(bin_) + share_) / total_;
    const T upto = static_cast<T>(sum_);
    return upto > T(1) ? T(1) : upto;
  }

  int64_t bins_;
  const T *t_, *weights_;
  T padding_, share_, total_;
  int64_t bin_;
  double sum_;
  T below_, above_;
};

}  // namespace medrecon

// SPDX-License-Identifier: Apache-2.0
// Bodies of encoding.h for one instruction set. A vector covers neighbouring elements of one half of a row (frequency by
// frequency, each with all axes), which is how they lie in memory; the point's few numbers are spread over the lanes. Zero,
// infinity and NaN do what core/encoding.h says.

// x[axis[0]], x[axis[1]], ... for the elements from `at` on of one half of a row, where x are the numbers of one point.
template <typename T>
class Spread {
 public:
  MR_INLINE Spread(const Frequencies<T>& f, const T* x) : x_(x), dims_(f.dims), axis_(f.axis.data()) {
    if (few()) loaded_ = load_part(x, dims_);
  }

  MR_INLINE Vec<T> operator()(int64_t at) const {
    if (few()) {
      Words<T> axes;
      std::memcpy(&axes, axis_ + at, kVectorBytes);
      return permute(loaded_, axes);
    }
    T x[kLanes<T>];
    for (int i = 0; i < kLanes<T>; ++i) x[i] = x_[axis_[at + i]];
    return load(x);
  }

  // Whether no angle, which is at most `most` times a number of the point, is beyond what sin_cos calls near.
  MR_INLINE bool near(T most) const {
    const T farthest = Sine<T>::farthest / most;
    if (few()) return all(vabs(loaded_) <= splat(farthest));
    bool all_near = true;
    for (int64_t j = 0; j < dims_; ++j) all_near &= std::abs(x_[j]) <= farthest;
    return all_near;
  }

 private:
  MR_INLINE bool few() const { return kVectorBytes > 16 && dims_ <= kLanes<T>; }  // without permutations: look up

  const T* x_;
  int64_t dims_;
  const typename Format<T>::Word* axis_;
  Vec<T> loaded_{};
};

template <typename T>
MR_INLINE void encode_gaussians(Vec<T> mean, Vec<T> var, Vec<T> scale, Vec<T> blur, bool near, Vec<T>* sine,
                                Vec<T>* cosine) {
  const Vec<T> damping = vexp2_flushed(blur * var), zero = splat(T(0));
  Vec<T> angle = scale * mean;
  if (!near) angle = select(damping == zero, zero * mean, angle);
  sin_cos(angle, sine, cosine, near);
  *sine = *sine * damping;
  *cosine = *cosine * damping;
}

// body(at, load, store) for every vector of one half of a row; load and store keep within the half.
template <typename T, typename Body>
MR_INLINE void for_each_vector(int64_t half, const Body& body) {
  int64_t at = 0;
  for (; at + kLanes<T> <= half; at += kLanes<T>) {
    body(at, [](const T* from) MR_INLINE_LAMBDA { return load(from); },
         [](T* to, Vec<T> a) MR_INLINE_LAMBDA { store(to, a); });
  }
  const int64_t rest = half - at;
  if (rest > 0) {
    body(at, [=](const T* from) MR_INLINE_LAMBDA { return load_part(from, rest); },
         [=](T* to, Vec<T> a) MR_INLINE_LAMBDA { store_part(to, a, rest); });
  }
}

template <typename T>
void positional_encoding(const Frequencies<T>& f, int64_t begin, int64_t end, const T* x, T* out) {
  const T* scale = f.scale.data();
  for (int64_t p = begin; p < end; ++p) {
    T *sines = out + p * 2 * f.half, *cosines = sines + f.half;
    const Spread<T> coordinate(f, x + p * f.dims);
    const bool near = coordinate.near(f.top);
    for_each_vector<T>(f.half, [&](int64_t at, const auto&, const auto& put) MR_INLINE_LAMBDA {
      Vec<T> s, c;
      sin_cos(load(scale + at) * coordinate(at), &s, &c, near);
      put(sines + at, s);
      put(cosines + at, c);
    });
  }
}

template <typename T>
void integrated_positional_encoding(const Frequencies<T>& f, int64_t begin, int64_t end, const T* mean, const T* var,
                                    T* out) {
  const T *scale = f.scale.data(), *blur = f.blur.data();
  for (int64_t p = begin; p < end; ++p) {
    T *sines = out + p * 2 * f.half, *cosines = sines + f.half;
    const Spread<T> means(f, mean + p * f.dims), vars(f, var + p * f.dims);
    const bool near = means.near(f.top);
    for_each_vector<T>(f.half, [&](int64_t at, const auto&, const auto& put) MR_INLINE_LAMBDA {
      Vec<T> s, c;
      encode_gaussians(means(at), vars(at), load(scale + at), load(blur + at), near, &s, &c);
      put(sines + at, s);
      put(cosines + at, c);
    });
  }
}

// Sums of the elements of half a row that belong to the same axis, in a fixed order. terms: `half` numbers, then zeros up to
// one vector more.
template <typename T>
MR_INLINE void sum_by_axis(const Frequencies<T>& f, const T* terms, T* sums) {
  const int64_t whole = kLanes<T> / f.dims * f.dims;  // lanes that hold whole sets of axes
  if (whole == 0) {
    std::memcpy(sums, terms, static_cast<size_t>(f.dims) * sizeof(T));
    for (int64_t at = f.dims; at < f.half; at += f.dims) {
      for (int64_t j = 0; j < f.dims; ++j) sums[j] += terms[at + j];
    }
    return;
  }
  Vec<T> sets = load(terms);
  for (int64_t at = whole; at < f.half; at += whole) sets += load(terms + at);
  Vec<T> sum = sets;
  for (int64_t set = f.dims; set < whole; set += f.dims) {
    const Words<T> shifted = bits_as<Words<T>>((iota<T>() + splat(Format<T>::magic + static_cast<T>(set))).v) &
                             splat_word<T>(typename Format<T>::Word(kLanes<T> - 1));
    sum += permute(sets, shifted);
  }
  store_part(sums, sum, f.dims);
}

// Points that are done together, so that reading their terms does not wait for the stores just made.
constexpr int64_t kTogether = 8;

template <typename T>
void positional_encoding_backward(const Frequencies<T>& f, int64_t begin, int64_t end, const T* grad, const T* x,
                                  T* grad_x) {
  const int64_t stride = f.padded;
  const T* scale = f.scale.data();
  std::vector<T> terms(kTogether * stride);
  for (int64_t first = begin; first < end; first += kTogether) {
    const int64_t count = std::min(kTogether, end - first);
    for (int64_t i = 0; i < count; ++i) {
      const T *sines = grad + (first + i) * 2 * f.half, *cosines = sines + f.half;
      const Spread<T> coordinate(f, x + (first + i) * f.dims);
      const bool near = coordinate.near(f.top);
      T* row = terms.data() + i * stride;
      for_each_vector<T>(f.half, [&](int64_t at, const auto& get, const auto& put) MR_INLINE_LAMBDA {
        const Vec<T> by = load(scale + at);
        Vec<T> s, c;
        sin_cos(by * coordinate(at), &s, &c, near);
        put(row + at, by * (get(sines + at) * c - get(cosines + at) * s));
      });
    }
    for (int64_t i = 0; i < count; ++i) sum_by_axis(f, terms.data() + i * stride, grad_x + (first + i) * f.dims);
  }
}

template <typename T>
void integrated_positional_encoding_backward(const Frequencies<T>& f, int64_t begin, int64_t end, const T* grad,
                                             const T* mean, const T* var, T* grad_mean, T* grad_var) {
  const int64_t stride = f.padded;
  const T *scale = f.scale.data(), *blur = f.blur.data();
  const Vec<T> half_sq = splat(T(-0.5));
  std::vector<T> terms(2 * kTogether * stride);
  for (int64_t first = begin; first < end; first += kTogether) {
    const int64_t count = std::min(kTogether, end - first);
    for (int64_t i = 0; i < count; ++i) {
      const T *sines = grad + (first + i) * 2 * f.half, *cosines = sines + f.half;
      const Spread<T> means(f, mean + (first + i) * f.dims), vars(f, var + (first + i) * f.dims);
      const bool near = means.near(f.top);
      T *to_mean = terms.data() + 2 * i * stride, *to_var = to_mean + stride;
      for_each_vector<T>(f.half, [&](int64_t at, const auto& get, const auto& put) MR_INLINE_LAMBDA {
        const Vec<T> by = load(scale + at);
        const Vec<T> grad_sine = get(sines + at), grad_cosine = get(cosines + at);
        Vec<T> s, c;
        encode_gaussians(means(at), vars(at), by, load(blur + at), near, &s, &c);
        put(to_mean + at, by * (grad_sine * c - grad_cosine * s));
        put(to_var + at, half_sq * by * by * (grad_sine * s + grad_cosine * c));
      });
    }
    for (int64_t i = 0; i < count; ++i) {
      const T* to_mean = terms.data() + 2 * i * stride;
      sum_by_axis(f, to_mean, grad_mean + (first + i) * f.dims);
      sum_by_axis(f, to_mean + stride, grad_var + (first + i) * f.dims);
    }
  }
}

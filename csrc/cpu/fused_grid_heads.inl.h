// SPDX-License-Identifier: Apache-2.0
// The heads of a fused grid's network for a vector of rows at a time, and compositing (Max 1995; mip-NeRF eq. 3) of some rows
// of a ray with its adjoint. Included once per instruction set, after vector_shuffle.inl.h.

// Of all rows of a batch, an array each.
template <typename T>
struct GridSamples {
  T* place[3];
  T *sigma, *length, *middle;  // of the interval: in space, in t
  T* colour[3];                // 0..1
  T* alpha;                    // 1 - exp(-optical depth)
  T* slope;                    // of the optical depth in the density head's output
  T *weight, *after;           // after: the light that leaves the row
  T* grad[4];                  // of the outputs of the colour head and of the density head
};

// Half of the lanes of every block of `size` comes from a, half from b; each is the sum of two lanes of its vector.
template <int size, typename T>
MR_INLINE Vec<T> folded(Vec<T> a, Vec<T> b) {
  constexpr int half = size / 2, n = kLanes<T>;
  const auto low = [](int i) { return i / size * size + (i % size < half ? i % size : n + i % size - half); };
  const auto high = [](int i) { return i / size * size + (i % size < half ? i % size : n + i % size - half) + half; };
  return pick(a, b, low) + pick(a, b, high);
}

template <int size, typename T>
MR_INLINE Vec<T> folded_all(Vec<T>* rows) {
  for (int i = 0; i < size / 2; ++i) rows[i] = folded<size>(rows[i], rows[i + size / 2]);
  if constexpr (size > 2) {
    return folded_all<size / 2>(rows);
  } else {
    return rows[0];
  }
}

// Lane i is the sum of w times row i of as many rows as there are lanes, in one fixed order.
template <typename T>
MR_INLINE Vec<T> products_of_rows(const T* rows, int64_t stride, const T* w) {
  Vec<T> sums[kLanes<T>];
  for (int i = 0; i < kLanes<T>; ++i) sums[i] = load(rows + i * stride) * load(w);
  for (int64_t j = kLanes<T>; j < stride; j += kLanes<T>) {
    const Vec<T> by = load(w + j);
    for (int i = 0; i < kLanes<T>; ++i) sums[i] = fma(load(rows + i * stride + j), by, sums[i]);
  }
  return folded_all<kLanes<T>>(sums);
}

// Colours, opacities and slopes of rows [begin, end), and of some more up to a whole vector. h [rows, width],
// c [rows, colour].
template <typename T>
void apply_grid_heads(const FieldPlan& plan, const T* network, const T* h, const T* c, int64_t begin, int64_t end,
                      const GridSamples<T>& s) {
  const Vec<T> one = splat(T(1)), zero = splat(T(0)), limit = splat(static_cast<T>(kLargestExponent));
  const T *density = network + plan.density, *head = network + plan.head, *bias = network + plan.scalars;
  const Vec<T> shift = splat(bias[3] + static_cast<T>(plan.shape.density_shift));
  for (int64_t i = begin; i < end; i += kLanes<T>) {
    for (int k = 0; k < 3; ++k) {
      const Vec<T> x = products_of_rows(c + i * plan.colour, plan.colour, head + k * plan.colour) + splat(bias[k]);
      store(s.colour[k] + i, one / (one + vexp(zero - x)));
    }
    const Vec<T> raw = products_of_rows(h + i * plan.width, plan.width, density) + shift;
    const Vec<T> optical = vexp(vmin(limit, raw)) * load(s.length + i);
    store(s.alpha + i, zero - vexpm1(zero - optical));
    store(s.slope + i, select(raw > limit, zero, optical));
  }
}

// What a ray has shown so far.
template <typename T>
struct GridPixel {
  double light;  // that is left
  T rgb[3], opacity, reach;
  int64_t seen;

  // The next rows. Returns whether light is left for more.
  bool add(int64_t begin, int64_t end, T stop, const GridSamples<T>& s) {
    for (int64_t i = begin; i < end; ++i) {
      if (light < static_cast<double>(stop)) {
        for (; i < end; ++i) s.weight[i] = s.after[i] = T(0);
        return false;
      }
      ++seen;
      const T w = s.alpha[i] * static_cast<T>(light);
      light *= 1 - static_cast<double>(s.alpha[i]);
      s.weight[i] = w;
      s.after[i] = static_cast<T>(light);
      for (int k = 0; k < 3; ++k) rgb[k] += w * s.colour[k][i];
      opacity += w;
      reach += w * s.middle[i];
    }
    return !(light < static_cast<double>(stop));
  }

  T depth() const { return opacity > T(0) ? reach / opacity : T(0); }
};

// The gradients of a ray's outputs, and what the rows behind those already gone through give to the light that passes.
template <typename T>
struct GridCotangent {
  T rgb[3], constant, per_reach, behind;

  GridCotangent() = default;
  GridCotangent(const GridPixel<T>& pixel, const T grad_rgb[3], T grad_depth, T grad_opacity, const T* background)
      : constant(grad_opacity), per_reach(pixel.opacity > T(0) ? grad_depth / pixel.opacity : T(0)), behind(0) {
    constant -= per_reach * pixel.depth();
    for (int k = 0; k < 3; ++k) {
      rgb[k] = grad_rgb[k];
      if (background != nullptr) constant -= rgb[k] * background[k];
    }
  }

  // Adjoint of GridPixel::add and of the heads' activations; the rows of a ray from the last to the first.
  void add(int64_t begin, int64_t end, const GridSamples<T>& s) {
    for (int64_t i = end - 1; i >= begin; --i) {
      T own = constant + per_reach * s.middle[i];
      for (int k = 0; k < 3; ++k) {
        const T c = s.colour[k][i];
        own += rgb[k] * c;
        s.grad[k][i] = s.weight[i] * rgb[k] * c * (T(1) - c);
      }
      s.grad[3][i] = s.slope[i] * (s.after[i] * own - behind);
      behind += s.weight[i] * own;
    }
  }
};

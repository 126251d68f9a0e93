// SPDX-License-Identifier: Apache-2.0
// The heads of the fused field's network, and compositing (mip-NeRF eq. 3) with its adjoint. Included once per instruction
// set, after vector.inl.h.

// Of the rows of a tile, an array each; colours and slopes by channel.
template <typename T>
struct Samples {
  T* colour[3];   // 0..1
  T* optical;     // density * length, then the light that passes all rows up to this one
  T* slope;       // of the optical depth in the density head's output
  T* weight;
  T* grad[4];     // of the outputs of the colour head and of the density head
};

// Outputs of the heads for each row: h [rows, width], c [rows, colour].
template <typename T>
void apply_heads(const FieldPlan& plan, const T* network, const T* h, const T* c, int64_t rows, const Samples<T>& out) {
  const T *density = network + plan.density, *head = network + plan.head, *bias = network + plan.scalars;
  for (int64_t i = 0; i < rows; ++i, h += plan.width, c += plan.colour) {
    Vec<T> raw = splat(T(0)), rgb[3] = {raw, raw, raw};
    for (int64_t j = 0; j < plan.width; j += kLanes<T>) raw = fma(load(h + j), load(density + j), raw);
    for (int64_t j = 0; j < plan.colour; j += kLanes<T>) {
      const Vec<T> x = load(c + j);
      for (int k = 0; k < 3; ++k) rgb[k] = fma(x, load(head + k * plan.colour + j), rgb[k]);
    }
    for (int k = 0; k < 3; ++k) out.colour[k][i] = sum(rgb[k]) + bias[k];
    out.optical[i] = sum(raw) + bias[3];
  }
}

// The heads' outputs become colours, optical depths and slopes. length: of each row's interval, in space. All rows of the
// arrays are written, up to a multiple of the vector.
template <typename T>
void activate(const FieldPlan& plan, int64_t rows, const T* length, const Samples<T>& s) {
  const Vec<T> one = splat(T(1)), zero = splat(T(0));
  const Vec<T> shift = splat(static_cast<T>(plan.shape.density_shift)), gain = splat(static_cast<T>(plan.shape.density_gain));
  for (int64_t i = 0; i < rows; i += kLanes<T>) {
    for (int k = 0; k < 3; ++k) store(s.colour[k] + i, one / (one + vexp(-load(s.colour[k] + i))));
    const Vec<T> raw = load(s.optical + i) + shift, size = gain * load(length + i);
    const Vec<T> e = vexp(-vabs(raw));  // softplus without overflow: max(x, 0) + log(1 + e^-|x|)
    store(s.optical + i, size * (vmax(zero, raw) + vlog1p(e)));
    store(s.slope + i, size * (select(raw < zero, e, one) / (one + e)));
  }
}

// Weights of one ray's rows [begin, end), whose optical depths become the light that passes: exp(-sum up to here).
template <typename T>
void weigh(int64_t begin, int64_t end, const Samples<T>& s) {
  T depth = T(0);
  for (int64_t i = begin; i < end; ++i) {
    s.weight[i] = depth;
    depth += s.optical[i];
  }
  for (int64_t i = begin; i < end; i += kLanes<T>) {
    const int64_t n = end - i < kLanes<T> ? end - i : kLanes<T>;
    const Vec<T> before = load_part(s.weight + i, n), own = load_part(s.optical + i, n);
    store_part(s.weight + i, -vexpm1(-own) * vexp(-before), n);
    store_part(s.optical + i, vexp(-(before + own)), n);
  }
}

// What a ray shows, and the same for gradients.
template <typename T>
struct Pixel {
  T rgb[3], depth, opacity;
};

// middle: of each row's interval, in t.
template <typename T>
Pixel<T> gather(int64_t begin, int64_t end, const T* middle, const T* background, const Samples<T>& s) {
  Pixel<T> p{};
  T reach = T(0);
  for (int64_t i = begin; i < end; ++i) {
    const T w = s.weight[i];
    for (int k = 0; k < 3; ++k) p.rgb[k] += w * s.colour[k][i];
    p.opacity += w;
    reach += w * middle[i];
  }
  p.depth = p.opacity > T(0) ? reach / p.opacity : T(0);
  if (background != nullptr) {
    for (int k = 0; k < 3; ++k) p.rgb[k] += (T(1) - p.opacity) * background[k];
  }
  return p;
}

// Adjoint of weigh, gather and activate: fills s.grad of the rows. grad_weight: of each row, or null.
template <typename T>
void scatter(int64_t begin, int64_t end, const Pixel<T>& pixel, const Pixel<T>& grad, const T* grad_weight, const T* middle,
             const T* background, const Samples<T>& s) {
  T constant = grad.opacity;
  if (background != nullptr) {
    for (int k = 0; k < 3; ++k) constant -= grad.rgb[k] * background[k];
  }
  const bool hit = pixel.opacity > T(0);
  const T per_reach = hit ? grad.depth / pixel.opacity : T(0);
  if (hit) constant -= per_reach * pixel.depth;
  T behind = T(0);  // what the rows behind give to the light that passes
  for (int64_t i = end - 1; i >= begin; --i) {
    T own = constant + per_reach * middle[i] + (grad_weight != nullptr ? grad_weight[i] : T(0));
    for (int k = 0; k < 3; ++k) {
      const T c = s.colour[k][i];
      own += grad.rgb[k] * c;
      s.grad[k][i] = s.weight[i] * grad.rgb[k] * c * (T(1) - c);
    }
    s.grad[3][i] = s.slope[i] * (s.optical[i] * own - behind);
    behind += s.weight[i] * own;
  }
}

// SPDX-License-Identifier: Apache-2.0
// What a batch of rays of a fused grid field lies in. Included once per instruction set, after fused_grid_heads.inl.h.

// The edge of a product that is left as it is.
template <typename T>
struct Bare {
  MR_INLINE Vec<T> start(int64_t, int64_t) const { return splat(T(0)); }
  MR_INLINE Vec<T> finish(int64_t, int64_t, int, Vec<T> x) const { return x; }
  template <int V>
  MR_INLINE void end(int64_t) const {}
};

template <typename T>
struct GridRay {
  RayMarch<T> march;
  GridPixel<T> pixel;
  GridCotangent<T> cotangent;
  T length;  // of the direction
  bool live;
};

// Consecutive rows of one ray.
struct GridSegment {
  int64_t ray, begin, end;
};

// Work space of a batch, carved from one block of memory.
template <typename T>
struct GridScratch {
  T *features, *trunk[kMostLayers], *colour, *bias, *grad_bias, *back;
  GridSamples<T> samples;
  int32_t* ray;

  // The size in numbers of T; nothing is written when `memory` is null.
  int64_t carve(const FusedGridPlan<T>& plan, T* memory) {
    const FieldPlan& net = plan.network;
    int64_t at = 0;
    const auto take = [&](int64_t count) {
      T* here = memory == nullptr ? nullptr : memory + at;
      at += round_up(count, 64);
      return here;
    };
    features = take(plan.space * net.shape.features);
    for (int64_t i = 0; i < net.shape.layers; ++i) trunk[i] = take(plan.space * net.width);
    colour = take(plan.space * net.colour);
    bias = take((plan.rays + 1) * net.colour);  // the last is of rows that belong to no ray
    grad_bias = take(plan.rays * net.colour);
    back = take(kCells * plan.inputs);
    GridSamples<T>& s = samples;
    for (T** array : {s.place, s.place + 1, s.place + 2, &s.sigma, &s.length, &s.middle, s.colour, s.colour + 1, s.colour + 2,
                      &s.alpha, &s.slope, &s.weight, &s.after, s.grad, s.grad + 1, s.grad + 2, s.grad + 3}) {
      *array = take(plan.space);
    }
    ray = reinterpret_cast<int32_t*>(take(plan.space));
    return at;
  }
};

template <typename T>
void place_points(const T* const place[3], const T* sigma, int64_t count, Points<T>& points) {
  for (int j = 0; j < 3; ++j) {
    for (int64_t s = 0; s < count; ++s) points.inside[j][s] = grid_inside(place[j][s]);
  }
  std::fill(points.poison, points.poison + count, T(0));
  if (sigma != nullptr) std::copy_n(sigma, count, points.sigma);
}

// SPDX-License-Identifier: Apache-2.0
// Adam (Kingma and Ba 2015, algorithm 1) on numbers [begin, end) that have a gradient. Included once per instruction set.

template <typename T>
void lazy_adam_part(int64_t begin, int64_t end, const T* grad, const AdamNumbers<T>& numbers, T* parameter, T* mean,
                    T* square) {
  const Vec<T> zero = splat(T(0)), one = splat(T(1)), beta1 = splat(numbers.beta1), beta2 = splat(numbers.beta2);
  const Vec<T> rate = splat(numbers.rate), eps = splat(numbers.eps), correction = splat(numbers.correction);
  const auto update = [&](Vec<T> g, Vec<T>* p, Vec<T>* m, Vec<T>* v) MR_INLINE_LAMBDA {
    const Mask<T> untouched = g == zero;
    const Vec<T> next_m = fma(one - beta1, g - *m, *m), next_v = fma(beta2, *v, (one - beta2) * g * g);
    *p = select(untouched, *p, *p - rate * next_m / fma(vsqrt(next_v), correction, eps));
    *m = select(untouched, *m, next_m);
    *v = select(untouched, *v, next_v);
  };
  int64_t i = begin;
  for (; i + kLanes<T> <= end; i += kLanes<T>) {
    const Vec<T> g = load(grad + i);
    if (all(g == zero)) continue;
    Vec<T> p = load(parameter + i), m = load(mean + i), v = load(square + i);
    update(g, &p, &m, &v);
    store(parameter + i, p);
    store(mean + i, m);
    store(square + i, v);
  }
  if (i == end) return;
  const int64_t n = end - i;
  Vec<T> p = load_part(parameter + i, n), m = load_part(mean + i, n), v = load_part(square + i, n);
  update(load_part(grad + i, n), &p, &m, &v);
  store_part(parameter + i, p, n);
  store_part(mean + i, m, n);
  store_part(square + i, v, n);
}

# SPDX-License-Identifier: Apache-2.0
"""The CUDA sources of composite and resample run on the CPU: lanes, chunks of a ray and walks are tested without a GPU."""

import cuda_on_host
import numpy as np
import pytest
import torch
from cuda_on_host import call

from medrecon.ops import reference

ENTRY = """
using namespace medrecon;
#define ENTRY(T)                                                                                                       \\
  extern "C" void forward_##T(int64_t n, int64_t s, const T* rgb, const T* density, const T* t, const T* d,            \\
                              const T* bg, T* colour, T* depth, T* opacity, T* weights) {                              \\
    cuda::composite<T>(nullptr, Rays<T>{n, s, n * s, nullptr, rgb, density, t, t + 1, d, bg, 3, T(0)},                    \\
                       Pixels<T*>{colour, depth, opacity, weights});                                                   \\
  }                                                                                                                    \\
  extern "C" void backward_##T(int64_t n, int64_t s, const T* g_colour, const T* g_depth, const T* g_opacity,          \\
                               const T* g_weights, const T* depth, const T* opacity, const T* weights, const T* rgb,   \\
                               const T* density, const T* t, const T* d, const T* bg, T* o_rgb, T* o_density, T* o_t,  \\
                               T* o_d, T* o_bg) {                                                                      \\
    cuda::composite_backward<T>(nullptr, Rays<T>{n, s, n * s, nullptr, rgb, density, t, t + 1, d, bg, 3, T(0)},           \\
                                Pixels<const T*>{g_colour, g_depth, g_opacity, g_weights},                             \\
                                Pixels<const T*>{nullptr, depth, opacity, weights},                                    \\
                                RayGradients<T>{o_rgb, o_density, o_t, nullptr, o_d, o_bg});                           \\
  }                                                                                                                    \\
  extern "C" void packed_forward_##T(int64_t n, int64_t m, const int64_t* offsets, const T* rgb, const T* density,     \\
                                     const T* t0, const T* t1, const T* d, const T* bg, T* colour, T* depth,           \\
                                     T* opacity, T* weights) {                                                         \\
    cuda::composite<T>(nullptr, Rays<T>{n, 0, m, offsets, rgb, density, t0, t1, d, bg, 3, T(0.3)},                        \\
                       Pixels<T*>{colour, depth, opacity, weights});                                                   \\
  }                                                                                                                    \\
  extern "C" void packed_backward_##T(int64_t n, int64_t m, const int64_t* offsets, const T* g_colour, const T* g_depth,\\
                                      const T* g_opacity, const T* g_weights, const T* depth, const T* opacity,        \\
                                      const T* weights, const T* rgb, const T* density, const T* t0, const T* t1,      \\
                                      const T* d, const T* bg, T* o_rgb, T* o_density, T* o_t0, T* o_t1, T* o_d,       \\
                                      T* o_bg) {                                                                       \\
    cuda::composite_backward<T>(nullptr, Rays<T>{n, 0, m, offsets, rgb, density, t0, t1, d, bg, 3, T(0.3)},               \\
                                Pixels<const T*>{g_colour, g_depth, g_opacity, g_weights},                             \\
                                Pixels<const T*>{nullptr, depth, opacity, weights},                                    \\
                                RayGradients<T>{o_rgb, o_density, o_t0, o_t1, o_d, o_bg});                             \\
  }                                                                                                                    \\
  extern "C" void resample_##T(int64_t rays, int64_t bins, int64_t n, int64_t shared, const T* t, const T* w,          \\
                               const T* u, T* out) {                                                                   \\
    cuda::resample<T>(nullptr, rays, bins, n, shared != 0, T(0.01), t, w, u, out);                                     \\
  }
ENTRY(float)
ENTRY(double)
"""
DTYPES = {"float": np.float32, "double": np.float64}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    sources = [f"{folder}/{name}.h" for folder in ("cuda", "core") for name in ("composite", "resample")]
    sources += ["cuda/composite.cu", "cuda/resample.cu"]
    return cuda_on_host.build(tmp_path_factory.mktemp("composite_on_host"), sources, ENTRY)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(("n", "s"), [(1, 1), (14, 4), (3, 11), (2, 0), (0, 3), (5, 8)])
def test_composite_is_the_reference(library, n, s, kind):
    rng, dtype = np.random.default_rng(n + s), DTYPES[kind]
    t = np.sort(rng.uniform(0.1, 3, (n, s + 1)))
    inputs = [
        rng.uniform(size=(n, s, 3)),
        rng.uniform(0, 3, (n, s)),
        t,
        rng.normal(size=(n, 3)),
        rng.uniform(size=(n, 3)),
    ]
    if s == 11:
        inputs[1][0] = 0.0  # nothing is hit
        inputs[1][1, 5] = np.inf  # nothing behind is seen
        inputs[3][2] = 0.0
    inputs = [x.astype(dtype) for x in inputs]
    out_sizes = [3 * n, n, n, n * s]
    cotangents = [rng.normal(size=size).astype(dtype) for size in out_sizes]
    outputs = call(getattr(library, f"forward_{kind}"), (n, s), inputs, out_sizes)
    grads = call(
        getattr(library, f"backward_{kind}"), (n, s), [*cotangents, *outputs[1:], *inputs], [x.size for x in inputs]
    )

    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
    truth = reference.composite(*leaves)
    given = [torch.tensor(c).double().reshape(x.shape) for c, x in zip(cotangents, truth)]
    truth_grads = torch.autograd.grad(truth, leaves, given)
    tolerance = 1e-5 if kind == "float" else 1e-12
    for found, expected in zip((*outputs, *grads), (*truth, *truth_grads)):
        expected = expected.detach().numpy().ravel()
        finite = np.isfinite(expected)  # the reference has 0 * inf beside an infinite density
        scale = max(1.0, np.abs(expected[finite]).max(initial=0))
        assert np.abs(found - expected)[finite].max(initial=0) <= tolerance * scale


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("counts", [[3, 0, 17, 1, 4, 0, 9], [1], [0], [6] * 15])
def test_composite_packed_is_the_reference(library, counts, kind):
    rng, dtype, n, m = np.random.default_rng(len(counts)), DTYPES[kind], len(counts), sum(counts)
    t0 = rng.uniform(0.1, 3, m)
    shapes = {"rgb": (m, 3), "density": (m,), "t0": (m,), "t1": (m,), "directions": (n, 3), "background": (n, 3)}
    inputs = [rng.uniform(size=shape) for shape in shapes.values()]
    inputs[1:4] = rng.uniform(0, 9, m), t0, t0 + rng.uniform(0, 0.5, m)
    inputs = [x.astype(dtype) for x in inputs]
    offsets = np.cumsum([0, *counts])
    out_sizes = [3 * n, n, n, m]
    cotangents = [rng.normal(size=size).astype(dtype) for size in out_sizes]
    outputs = call(getattr(library, f"packed_forward_{kind}"), (n, m), [*inputs], out_sizes, offsets)
    given = [*cotangents, *outputs[1:], *inputs]
    grads = call(getattr(library, f"packed_backward_{kind}"), (n, m), given, [x.size for x in inputs], offsets)

    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
    truth = reference.composite_packed(*leaves[:4], torch.tensor(offsets), *leaves[4:], stop=0.3)
    assert m < 30 or (truth[3] == 0).any()  # some samples are behind the stop
    shaped = [torch.tensor(c).double().reshape(x.shape) for c, x in zip(cotangents, truth)]
    truth_grads = torch.autograd.grad(truth, leaves, shaped)
    for found, expected in zip((*outputs, *grads), (*truth, *truth_grads)):
        error = np.abs(found - expected.detach().numpy().ravel()).max(initial=0)
        assert error <= (1e-5 if kind == "float" else 1e-12)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("offsets", [[5, -3, 99, 2], [-(2**62), 2**62, -1, 7]])
def test_offsets_that_lead_outside_touch_nothing_outside(library, offsets, kind):
    dtype = DTYPES[kind]
    inputs = [np.ones(size, dtype) for size in (18, 6, 6, 6, 9, 9)]
    sizes = [9, 3, 3, 6]  # call() looks for writes behind the outputs
    call(getattr(library, f"packed_forward_{kind}"), (3, 6), inputs, sizes, np.array(offsets))


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("n", "bins", "count"), [(1, 1, 3), (50, 7, 9), (3, 20, 1), (0, 4, 4)])
def test_resample_is_the_reference(library, n, bins, count, shared, kind):
    rng, dtype = np.random.default_rng(bins), DTYPES[kind]
    t = np.sort(rng.uniform(0, 4, (n, bins + 1))).astype(dtype)
    weights = (rng.uniform(size=(n, bins)) ** 3).astype(dtype)
    generator = torch.Generator().manual_seed(1)
    u = reference.rendering.quantiles(torch.tensor(t), count, shared, generator).numpy()
    (found,) = call(getattr(library, f"resample_{kind}"), (n, bins, count, int(shared)), [t, weights, u], [n * count])
    generator.manual_seed(1)
    truth = reference.resample(torch.tensor(t), torch.tensor(weights), count, 0.01, shared, generator)
    assert np.abs(found - truth.numpy().ravel()).max(initial=0) <= (1e-4 if kind == "float" else 1e-11)

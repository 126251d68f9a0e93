# SPDX-License-Identifier: Apache-2.0
"""The CUDA sources of grid_encode and march_rays run on the CPU, against the plain-torch reference."""

import ctypes

import cuda_on_host
import numpy as np
import pytest
import torch
from cuda_on_host import call

from medrecon.ops import reference

ENTRY = """
using namespace medrecon::cuda;
#define ENTRY(T)                                                                                                       \\
  extern "C" void encode_##T(int64_t m, int64_t l, int64_t log2, int64_t f, const int64_t* n, const T* x,              \\
                             const T* sigma, const T* table, T* out) {                                                 \\
    grid_encode<T>(nullptr, m, l, n, log2, f, x, sigma, table, out);                                                   \\
  }                                                                                                                    \\
  extern "C" void plain_##T(int64_t m, int64_t l, int64_t log2, int64_t f, const int64_t* n, const T* x,               \\
                            const T* table, T* out) {                                                                  \\
    grid_encode<T>(nullptr, m, l, n, log2, f, x, nullptr, table, out);                                                 \\
  }                                                                                                                    \\
  extern "C" void table_##T(int64_t m, int64_t l, int64_t log2, int64_t f, const int64_t* n, const T* grad,            \\
                            const T* x, const T* sigma, T* grad_table) {                                               \\
    const int64_t entries = medrecon::grid_levels(n, l, log2).entries;                                                 \\
    std::vector<int64_t> largest(l, -1), sums(2 * f * entries, -1);                                                    \\
    grid_encode_backward_table<T>(nullptr, m, l, n, log2, f, grad, x, sigma, largest.data(), sums.data(), grad_table); \\
  }                                                                                                                    \\
  extern "C" void inputs_##T(int64_t m, int64_t l, int64_t log2, int64_t f, const int64_t* n, const T* grad,           \\
                             const T* x, const T* sigma, const T* table, T* grad_x, T* grad_sigma) {                   \\
    grid_encode_backward_inputs<T>(nullptr, m, l, n, log2, f, grad, x, sigma, table, grad_x, grad_sigma);              \\
  }                                                                                                                    \\
  extern "C" void march_##T(int64_t rays, int64_t r, int64_t most, const T* o, const T* d, const T* near,              \\
                            const T* far, const T* lengths, const T* jitter, const uint8_t* bits, int64_t* offsets,    \\
                            int32_t* ray, T* t0, T* t1) {                                                              \\
    std::vector<uint8_t> coarse(r * r * r / 64 + 1, 255);                                                              \\
    if (r % 4 == 0) march_coarse(nullptr, bits, r, coarse.data());                                                     \\
    const uint8_t* known = r % 4 == 0 ? coarse.data() : nullptr;                                                       \\
    const MarchArguments<T> a{rays, o, d, near, far, jitter, bits, r, lengths[0], lengths[1], most, lengths[2] > 0};   \\
    march_count<T>(nullptr, a, known, offsets + 1);                                                                    \\
    for (int64_t i = 0; i < rays; ++i) offsets[i + 1] += offsets[i];                                                   \\
    march_write<T>(nullptr, a, known, offsets, ray, t0, t1);                                                           \\
  }
ENTRY(float)
ENTRY(double)
"""
KINDS = {"float": np.float32, "double": np.float64}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    sources = ["core/contract.h", "core/grid.h", "core/march.h", "cpu/march.h"]
    sources += ["cuda/grid.h", "cuda/grid.cu", "cuda/march.h", "cuda/march.cu"]
    return cuda_on_host.build(tmp_path_factory.mktemp("grid_on_host"), sources, ENTRY)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("resolutions", "log2_size", "features"), [((3, 5, 11), 8, 2), ((2,), 2, 3)])
@pytest.mark.parametrize(("samples", "scale"), [(61, 1.0), (61, 1e-20), (1, 1.0), (0, 1.0)])
def test_the_grid(library, kind, resolutions, log2_size, features, samples, scale):
    rng, dtype = np.random.default_rng(0), KINDS[kind]
    entries, columns = reference.grid_levels(resolutions, log2_size)[-1], len(resolutions) * features
    x, sigma = rng.random((samples, 3)).astype(dtype), rng.uniform(0.01, 0.2, samples).astype(dtype)
    x[samples // 2 : samples // 2 + 1] = [1.0, -0.2, 1.3]  # on the border and outside
    table = rng.normal(size=(entries, features)).astype(dtype)
    grad = (scale * rng.normal(size=(samples, columns))).astype(dtype)
    sizes, n = (samples, len(resolutions), log2_size, features), np.array(resolutions, np.int64)

    leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, sigma, table)]
    truth = reference.grid_encode(*leaves, resolutions, log2_size)
    plain = reference.grid_encode(leaves[0], None, leaves[2], resolutions, log2_size)
    of_x, of_sigma, of_table = torch.autograd.grad(truth, leaves, torch.tensor(grad).double())

    def outputs(name, inputs, counts):
        return call(getattr(library, f"{name}_{kind}"), sizes, inputs, counts, n)

    found = outputs("encode", [x, sigma, table], [samples * columns])
    found += outputs("plain", [x, table], [samples * columns])
    found += outputs("inputs", [grad, x, sigma, table], [samples * 3, samples])
    found += outputs("table", [grad, x, sigma], [entries * features])
    for a, b in zip(found, (truth, plain, of_x, of_sigma, of_table)):
        b = b.detach().numpy().ravel()
        # 1e-37: of a single sample, all may be below the smallest float
        assert np.linalg.norm(a - b) <= (1e-5 if kind == "float" else 1e-12) * np.linalg.norm(b) + 1e-37
    if samples == 0:
        return

    grad[samples // 3, 0] = np.nan
    (poisoned,) = outputs("table", [grad, x, sigma], [entries * features])
    assert 0 < np.isnan(poisoned).sum() <= 8
    kept = ~np.isnan(poisoned)
    assert np.allclose(poisoned[kept], found[-1][kept], rtol=0, atol=10 * scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("resolution", "rays"), [(8, 50), (10, 50), (8, 1), (3, 0), (1, 7)])
@pytest.mark.parametrize("contract", [False, True])
def test_marching(library, kind, resolution, rays, contract):
    rng, dtype = np.random.default_rng(1), KINDS[kind]
    origins, directions = (rng.uniform(-1, 1, (rays, 3)).astype(dtype) for _ in range(2))
    near, far, jitter = np.zeros(rays, dtype), np.full(rays, 3, dtype), rng.random(rays).astype(dtype)
    bits = rng.integers(0, 256, (resolution**3 + 7) // 8, dtype=np.uint8)
    bits[::2] = 0
    bits[::3] = 255
    lengths, most = np.array([0.02, 0 if contract else 0.01, contract], dtype), 40
    scene = [torch.from_numpy(v) for v in (origins, directions, near, far, bits)]
    step, cone, _ = lengths.tolist()
    truth = reference.march_rays(*scene, resolution, step, cone, torch.from_numpy(jitter), most, contract)
    m = len(truth[1])
    assert m > 50 or rays < 50

    for descending in (False, True):
        library.order_of_threads(ctypes.c_bool(descending))
        offsets, ray = np.zeros(rays + 1, np.int64), np.full(m + 1, -5, np.int32)
        t0, t1 = np.full(m + 1, np.nan, dtype), np.full(m + 1, np.nan, dtype)
        arrays = [origins, directions, near, far, lengths, jitter, bits, offsets, ray, t0, t1]
        pointers = (ctypes.c_void_p(v.ctypes.data) for v in arrays)
        getattr(library, f"march_{kind}")(*map(ctypes.c_int64, (rays, resolution, most)), *pointers)
        assert np.array_equal(offsets, truth[0]) and np.array_equal(ray[:m], truth[1])
        assert ray[m] == -5 and np.isnan(t0[m]) and np.isnan(t1[m])  # nothing written behind the end
        assert np.allclose(t0[:m], truth[2], rtol=1e-6) and np.allclose(t1[:m], truth[3], rtol=1e-6)

# SPDX-License-Identifier: Apache-2.0
"""The CUDA sources of the encodings and of cast_rays run on the CPU; and what the host runtime itself must find."""

import subprocess
import sys

import cuda_on_host
import numpy as np
import pytest
import torch
from cuda_on_host import call

from medrecon.ops import reference

ENTRY = """
using namespace medrecon::cuda;
#define ENTRY(T)                                                                                                       \\
  extern "C" void points_##T(int64_t m, int64_t dims, int64_t low, int64_t degrees, const T* x, T* out) {              \\
    positional_encoding<T>(nullptr, m, dims, low, degrees, x, out);                                                    \\
  }                                                                                                                    \\
  extern "C" void points_backward_##T(int64_t m, int64_t dims, int64_t low, int64_t degrees, const T* grad,            \\
                                      const T* x, T* grad_x) {                                                         \\
    positional_encoding_backward<T>(nullptr, m, dims, low, degrees, grad, x, grad_x);                                  \\
  }                                                                                                                    \\
  extern "C" void gaussians_##T(int64_t m, int64_t dims, int64_t low, int64_t degrees, const T* mean, const T* var,    \\
                                T* out) {                                                                              \\
    integrated_positional_encoding<T>(nullptr, m, dims, low, degrees, mean, var, out);                                 \\
  }                                                                                                                    \\
  extern "C" void gaussians_backward_##T(int64_t m, int64_t dims, int64_t low, int64_t degrees, const T* grad,         \\
                                         const T* mean, const T* var, T* grad_mean, T* grad_var) {                     \\
    integrated_positional_encoding_backward<T>(nullptr, m, dims, low, degrees, grad, mean, var, grad_mean, grad_var);  \\
  }
ENTRY(float)
ENTRY(double)
"""
RAYS = """
using namespace medrecon::cuda;
#define ENTRY(T)                                                                                                       \\
  extern "C" void forward_##T(int64_t n, int64_t s, const T* t, const T* o, const T* d, const T* r, T* mean, T* var) { \\
    cast_rays<T>(nullptr, n, s, t, o, d, r, mean, var);                                                                \\
  }                                                                                                                    \\
  extern "C" void backward_##T(int64_t n, int64_t s, const T* g_mean, const T* g_var, const T* t, const T* d,          \\
                               const T* r, T* g_t, T* g_o, T* g_d, T* g_r) {                                           \\
    cast_rays_backward<T>(nullptr, n, s, g_mean, g_var, t, d, r, g_t, g_o, g_d, g_r);                                  \\
  }
ENTRY(float)
ENTRY(double)
"""
# The sum of a block through shared memory; a write behind the end of that; a barrier that not all reach.
PROBES = """
namespace {
constexpr int kThreads = 16;
template <bool Barrier>
__global__ void next_kernel(const double* x, double* out) {
  __shared__ double values[kThreads];
  values[threadIdx.x] = x[threadIdx.x];
  if (Barrier) __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + 1) % kThreads] + values[(threadIdx.x + kThreads - 1) % kThreads];
}
}  // namespace
extern "C" void with_barrier(const double* x, double* out) {
  on_host::run_grid(1, kThreads, 0, [=] { next_kernel<true>(x, out); });
}
extern "C" void without_barrier(const double* x, double* out) {
  on_host::run_grid(1, kThreads, 0, [=] { next_kernel<false>(x, out); });
}
extern "C" void beyond() {
  on_host::run_grid(1, kThreads, 8 * kThreads, [] { on_host::dynamic_shared[threadIdx.x + 2] = 1; });
}
extern "C" void divergent() {
  on_host::run_grid(1, kThreads, 0, [] { if (threadIdx.x > 2) __syncthreads(); else __shfl_sync(0, 1, 0); });
}
"""
KINDS = {"float": np.float32, "double": np.float64}
each_kind = pytest.mark.parametrize("kind", KINDS)


def checked(found, truth, leaves, grads, kind):
    expected = [truth] if isinstance(truth, torch.Tensor) else list(truth)
    expected += torch.autograd.grad(expected, leaves, [torch.tensor(g).double() for g in grads])
    for a, b in zip(found, expected, strict=True):
        b = b.detach().numpy().ravel()
        assert np.linalg.norm(a - b) <= (1e-5 if kind == "float" else 1e-12) * np.linalg.norm(b)


@pytest.fixture(scope="module")
def encodings(tmp_path_factory):
    sources = ["core/encoding.h", "cuda/encoding.h", "cuda/encoding.cu"]
    return cuda_on_host.build(tmp_path_factory.mktemp("encoding_on_host"), sources, ENTRY)


@each_kind
@pytest.mark.parametrize(
    ("m", "dims", "low", "degrees"), [(0, 3, 0, 4), (1, 1, 2, 1), (61, 3, -1, 16), (7, 2, 0, 5), (3, 3, 4, 0)]
)
def test_encodings(encodings, kind, m, dims, low, degrees):
    rng, dtype, sizes = np.random.default_rng(m), KINDS[kind], (m, dims, low, degrees)
    mean = rng.uniform(-2, 2, (m, dims)).astype(dtype)
    var = np.exp(rng.uniform(-14, 0, (m, dims))).astype(dtype)
    grad = rng.normal(size=(m, 2 * dims * degrees)).astype(dtype)
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (mean, var)]
    found = call(getattr(encodings, f"points_{kind}"), sizes, [mean], [grad.size])
    found += call(getattr(encodings, f"points_backward_{kind}"), sizes, [grad, mean], [mean.size])
    checked(found, reference.positional_encoding(leaves[0], low, low + degrees), leaves[:1], [grad], kind)
    found = call(getattr(encodings, f"gaussians_{kind}"), sizes, [mean, var], [grad.size])
    found += call(getattr(encodings, f"gaussians_backward_{kind}"), sizes, [grad, mean, var], [mean.size] * 2)
    checked(found, reference.integrated_positional_encoding(*leaves, low, low + degrees), leaves, [grad], kind)


@pytest.fixture(scope="module")
def rays(tmp_path_factory):
    sources = ["core/frustum.h", "cuda/cast_rays.h", "cuda/cast_rays.cu"]
    return cuda_on_host.build(tmp_path_factory.mktemp("rays_on_host"), sources, RAYS)


@each_kind
@pytest.mark.parametrize(("n", "s"), [(0, 4), (1, 1), (3, 0), (61, 3), (2, 33)])
def test_cast_rays(rays, kind, n, s):
    rng, dtype = np.random.default_rng(n), KINDS[kind]
    inputs = [np.sort(rng.uniform(0.1, 4, (n, s + 1))), *rng.normal(size=(2, n, 3)), rng.uniform(0, 0.1, (n, 1))]
    inputs = [x.astype(dtype) for x in inputs]
    grads = [g.astype(dtype) for g in rng.normal(size=(2, n, s, 3))]
    found = call(getattr(rays, f"forward_{kind}"), (n, s), inputs, [3 * n * s] * 2)
    given = [*grads, inputs[0], *inputs[2:]]
    found += call(getattr(rays, f"backward_{kind}"), (n, s), given, [x.size for x in inputs])
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
    checked(found, reference.cast_rays(*leaves), leaves, grads, kind)


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    return cuda_on_host.build(tmp_path_factory.mktemp("probes"), [], '#include "cuda/launch.h"\n' + PROBES)


def test_a_missing_barrier_is_found(probes):
    x = np.arange(16.0)
    (found,) = call(probes.with_barrier, (), [x], [16])
    assert np.array_equal(found, np.roll(x, 1) + np.roll(x, -1))
    with pytest.raises(AssertionError, match="order of the threads"):
        call(probes.without_barrier, (), [x], [16])


@pytest.mark.parametrize(("name", "said"), [("beyond", "behind its 128 bytes"), ("divergent", "never reach")])
def test_faults_end_the_process_with_a_word(probes, name, said):
    script = f"import ctypes; ctypes.CDLL({probes._name!r}).{name}()"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode != 0 and said in result.stderr

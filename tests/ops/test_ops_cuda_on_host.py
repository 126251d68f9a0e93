# SPDX-License-Identifier: Apache-2.0
"""log_sinkhorn's CUDA source run on the CPU: indexing, barriers and arithmetic are tested where there is no GPU.

The source is compiled as C++ with a few lines in place of the CUDA headers: the threads of a block are threads, __syncthreads
is a barrier, __shared__ is static, and the blocks of a grid follow one another.
"""

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.ops import recipe, reference

CSRC = Path(__file__).resolve().parents[2] / "csrc"
THREADS, MOST_BLOCKS = 16, 3  # small, so that every loop over threads and over the grid goes round

RUNTIME = """
#pragma once
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#define __global__
#define __device__
#define __shared__ static
struct Index { unsigned x; };
inline thread_local Index threadIdx, blockIdx;
inline Index blockDim, gridDim;
inline std::barrier<>* block_barrier;
inline void __syncthreads() { block_barrier->arrive_and_wait(); }
using cudaStream_t = void*;
using cudaError_t = int;
inline int cudaGetLastError() { return 0; }
inline int cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) { std::memset(to, value, bytes); return 0; }
template <typename Kernel>
void run_grid(unsigned blocks, unsigned threads, const Kernel& kernel) {
  std::barrier barrier(threads);
  block_barrier = &barrier;
  blockDim.x = threads;
  gridDim.x = blocks;
  std::vector<std::thread> all;
  for (unsigned t = 0; t < threads; ++t) {
    all.emplace_back([&, t] {
      threadIdx.x = t;
      for (unsigned b = 0; b < blocks; ++b) {
        blockIdx.x = b;
        kernel();
        __syncthreads();
      }
    });
  }
  for (auto& thread : all) thread.join();
}
"""

ENTRY = """
#define ENTRY(T)                                                                                                     \\
  extern "C" void forward_##T(int64_t b, int64_t m, int64_t n, int64_t t, const T* s, const T* bin, T* plan, T* w) { \\
    medrecon::cuda::log_sinkhorn<T>(nullptr, b, m, n, t, s, bin, plan, w);                                           \\
  }                                                                                                                  \\
  extern "C" void backward_##T(int64_t b, int64_t m, int64_t n, int64_t t, const T* grad, const T* s, const T* bin,  \\
                               T* grad_s, T* grad_bin, T* w) {                                                       \\
    medrecon::cuda::log_sinkhorn_backward<T>(nullptr, b, m, n, t, grad, s, bin, grad_s, grad_bin, w);                \\
  }
ENTRY(float)
ENTRY(double)
"""


def as_host_code(text: str) -> str:
    launch = r"kernel<<<(.+), kThreads, 0, static_cast<cudaStream_t>\(stream\)>>>\((.+)\);"
    text = re.sub(launch, r"run_grid(\1, kThreads, [=] { kernel(\2); });", text)
    text = re.sub(r"kThreads = \d+", f"kThreads = {THREADS}", text)
    text = re.sub(r"most = 1 << 20", f"most = {MOST_BLOCKS}", text)
    assert "<<<" not in text.replace("Calls kernel<<<...>>>", "")
    return text


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if recipe.compiler() is None or sys.platform != "linux":
        pytest.skip("needs a C++20 compiler on Linux")
    root = tmp_path_factory.mktemp("cuda_on_host")
    for folder, names in {"cuda": ["launch.h", "sinkhorn.h", "sinkhorn.cu"], "core": ["hd.h", "sinkhorn.h"]}.items():
        (root / folder).mkdir()
        for name in names:
            (root / folder / name).write_text(as_host_code((CSRC / folder / name).read_text()))
    (root / "cuda_runtime.h").write_text(RUNTIME)
    (root / "all.cpp").write_text('#include "cuda/sinkhorn.cu"\n' + ENTRY)
    command = [recipe.compiler(), "-std=c++20", "-O1", "-pthread", "-shared", "-fPIC", f"-I{root}", "-Wall", "-Werror"]
    result = subprocess.run(
        [*command, str(root / "all.cpp"), "-o", str(root / "all.so")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return ctypes.CDLL(str(root / "all.so"))


def call(function, sizes, inputs, output_sizes):
    """Calls with outputs full of NaN, each with a sentinel behind it that must still be there."""
    sentinel = 12345.0
    outputs = [np.append(np.full(size, np.nan), sentinel).astype(inputs[0].dtype) for size in output_sizes]
    function(*map(ctypes.c_int64, sizes), *(ctypes.c_void_p(x.ctypes.data) for x in (*inputs, *outputs)))
    assert all(x[-1] == sentinel for x in outputs)
    return [x[:-1] for x in outputs]


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize(
    ("batch", "m", "n", "iterations", "scale"),
    [(2, 5, 7, 3, 4), (1, 1, 1, 2, 4), (1, 17, 33, 2, 300), (3, 9, 8, 1, 4), (1, 20, 2, 0, 4), (2, 1, 25, 2, 4)],
)
def test_the_cuda_source_computes_the_reference(library, batch, m, n, iterations, scale, kind):
    rng = np.random.default_rng(m)
    dtype = np.float32 if kind == "float" else np.float64
    scores = (rng.normal(size=(batch, m, n)) * scale).astype(dtype)
    scores[0, 0, 0] = -1e30 if m > 1 else scores[0, 0, 0]
    dustbin, grad = np.array([0.7], dtype), rng.normal(size=(batch, m + 1, n + 1)).astype(dtype)
    sizes, cells = (batch, m, n, iterations), batch * (m + 1) * (n + 1)

    forward_outputs = [cells, batch * (m + n + 2)]
    plan, _ = call(getattr(library, f"forward_{kind}"), sizes, [scores, dustbin], forward_outputs)
    backward_outputs = [scores.size, 1, batch * ((m + n + 2) * 2 * iterations + n + 2)]
    grads = call(getattr(library, f"backward_{kind}"), sizes, [grad, scores, dustbin], backward_outputs)

    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (scores, dustbin.reshape(1, 1, 1))]
    truth = reference.log_sinkhorn(*leaves, iterations)
    truth_grads = torch.autograd.grad(truth, leaves, torch.tensor(grad).double())
    truth = truth.detach().numpy().ravel()
    finite = truth > -1e29
    assert np.abs(plan - truth)[finite].max() <= (1e-6 if kind == "float" else 1e-13) * max(10, scale)
    for found, expected in zip(grads, truth_grads):
        error = np.abs(found - expected.numpy().ravel()).max()
        assert error <= (1e-5 if kind == "float" else 1e-12) * max(10, scale)

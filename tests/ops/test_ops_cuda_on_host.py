# SPDX-License-Identifier: Apache-2.0
"""log_sinkhorn's CUDA source run on the CPU: indexing, barriers and arithmetic are tested where there is no GPU."""

import cuda_on_host
import numpy as np
import pytest
import torch
from cuda_on_host import call

from medrecon.ops import reference

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


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    sources = ["cuda/sinkhorn.h", "cuda/sinkhorn.cu", "core/sinkhorn.h"]
    return cuda_on_host.build(tmp_path_factory.mktemp("cuda_on_host"), sources, ENTRY)


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

# SPDX-License-Identifier: Apache-2.0
"""For all tests of the ops: two threads, one seed, and what there is to test."""

import pytest
import torch

from medrecon import ops
from medrecon.ops import backends


@pytest.fixture(autouse=True)
def two_threads_one_seed():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def kernels():
    """Skips where there are none."""
    if not backends.kernels_for("cpu"):
        pytest.skip(f"no kernels here: {ops.backend().reason}")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Each device that has kernels."""
    if request.param == "cuda" and not (torch.cuda.is_available() and backends.kernels_for("cuda")):
        pytest.skip("no CUDA device or no CUDA kernels")
    return request.param

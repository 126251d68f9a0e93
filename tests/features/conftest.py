# SPDX-License-Identifier: Apache-2.0
"""The peers of the benchmarks are the oracles of the tests; a small SuperPoint stands in for the released weights."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory) -> Path:
    """A checkpoint of our own form with made-up weights."""
    from medrecon.networks.checkpoint import save_network
    from medrecon.testing.networks import small_superpoint

    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_network(path, small_superpoint(), "Apache-2.0", {"made by": "medrecon.testing.networks, seed 0"})
    return path

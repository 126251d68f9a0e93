# SPDX-License-Identifier: Apache-2.0
"""No GPU is needed here: gsplat's CUDA functions have stand-ins in torch, its Python code is its own."""

import sys
from pathlib import Path

import pytest
import torch

from medrecon.testing import forbid_network

sys.path.insert(0, str(Path(__file__).parent))
import toy_rasteriser  # noqa: E402


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    forbid_network(monkeypatch)


def relocation(opacities, scales, ratios, binoms):
    """Equation 9 of Kheradmand et al. 2024: N Gaussians in one place look like the one they were."""
    new = 1 - (1 - opacities) ** (1 / ratios)
    total = torch.zeros_like(new)
    for n in range(len(new)):
        for i in range(1, int(ratios[n]) + 1):
            for k in range(i):
                total[n] += binoms[i - 1, k] * (-1) ** k / (k + 1) ** 0.5 * new[n] ** (k + 1)
    return new, (opacities / total)[:, None] * scales


@pytest.fixture
def without_gpu(monkeypatch):
    import gsplat.strategy.ops as ops
    from gsplat.cuda._torch_impl import _quat_scale_to_covar_preci
    from medrecon_gsplat import library

    monkeypatch.setattr(library, "require", lambda: None)
    monkeypatch.setattr(library, "rasterise", toy_rasteriser.rasterise)
    monkeypatch.setattr(ops, "compute_relocation", relocation)
    monkeypatch.setattr(ops, "quat_scale_to_covar_preci", _quat_scale_to_covar_preci)

# SPDX-License-Identifier: Apache-2.0
"""The one place that touches gsplat, and says what is missing where it cannot run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medrecon.errors import InputError, PluginError

SIGNATURES = "gsplat>=1.5,<2"


def require() -> None:
    """Raises PluginError without the library, InputError without a GPU."""
    try:
        import gsplat  # noqa: F401
    except ImportError as e:
        raise PluginError(f"the library gsplat is not installed ({e})", f"pip install '{SIGNATURES}'") from e
    if not torch.cuda.is_available():
        raise InputError(
            "the renderer gsplat needs a CUDA GPU, and torch sees none",
            "use radiance: {name: mipgrid}, which needs none; on a machine with a GPU, install torch with CUDA",
        )


def rasterise(means: Tensor, **arguments: Any) -> tuple[Tensor, Tensor]:
    """``gsplat.rasterization`` of one view: float [H, W, D] of what was asked for, opacity [H, W]."""
    from gsplat import rasterization

    if not means.is_cuda:
        raise InputError("the renderer gsplat was put on the CPU", "set device: cuda")
    shown, opacity, _ = rasterization(means, **arguments)
    return shown[0], opacity[0, ..., 0]


def strategy(gaussians: int, relocate_every: int) -> Any:
    """3D Gaussian splatting as Markov chain Monte Carlo (Kheradmand et al. 2024), of a fixed number of Gaussians."""
    from gsplat import MCMCStrategy

    return MCMCStrategy(cap_max=gaussians, refine_every=relocate_every)

# SPDX-License-Identifier: Apache-2.0
"""Positions to sines and cosines."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..backends import kernels_for
from . import checks

LARGEST_DEGREE = 32


def positional_encoding(x: Tensor, min_deg: int, max_deg: int) -> Tensor:
    """Sines and cosines of 2^i x for i in [min_deg, max_deg) (NeRF eq. 4 without pi, as google/mipnerf).

    Args:
        x: [..., D].
        min_deg, max_deg: -32 <= min_deg <= max_deg <= 32.

    Returns:
        [..., 2 * D * (max_deg - min_deg)]: all sines, then all cosines; each half degree by degree, D values a degree.
        The input itself is not appended. Differentiable twice.
    """
    _encodable("positional_encoding", min_deg, max_deg, x=x)
    if kernels_for(x.device.type):
        return torch.ops.medrecon.positional_encoding.default(x, min_deg, max_deg)
    return reference.positional_encoding(x, min_deg, max_deg)


def integrated_positional_encoding(mean: Tensor, var: Tensor, min_deg: int, max_deg: int) -> Tensor:
    """The encoding's expected value over a Gaussian (mip-NeRF eq. 14): frequencies finer than the Gaussian fade out.

    Args:
        mean, var: [..., D], mean and variance on each axis.
        min_deg, max_deg: -32 <= min_deg <= max_deg <= 32.

    Returns:
        [..., 2 * D * (max_deg - min_deg)], laid out as by `positional_encoding`. Differentiable twice.
    """
    _encodable("integrated_positional_encoding", min_deg, max_deg, mean=mean, var=var)
    checks.shaped("integrated_positional_encoding", "var", var, tuple(mean.shape))
    if kernels_for(mean.device.type):
        return torch.ops.medrecon.integrated_positional_encoding.default(mean, var, min_deg, max_deg)
    return reference.integrated_positional_encoding(mean, var, min_deg, max_deg)


def _encodable(op: str, min_deg: int, max_deg: int, **tensors: Tensor) -> None:
    checks.floating(op, **tensors)
    if not -LARGEST_DEGREE <= min_deg <= max_deg <= LARGEST_DEGREE:
        raise ValueError(f"{op}: needs -32 <= min_deg <= max_deg <= 32, got min_deg {min_deg} and max_deg {max_deg}")
    for name, x in tensors.items():
        if x.dim() < 1:
            raise ValueError(f"{op}: {name} is a single number, expected [..., D]")

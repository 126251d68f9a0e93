# SPDX-License-Identifier: Apache-2.0
"""Encodings of positions and of Gaussians (mip-NeRF, Barron et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor


def _scales(min_deg: int, max_deg: int, like: Tensor) -> Tensor:
    return 2.0 ** torch.arange(min_deg, max_deg, device=like.device, dtype=like.dtype)


def positional_encoding(x: Tensor, min_deg: int, max_deg: int) -> Tensor:
    """NeRF's encoding in mip-NeRF's layout: all sines, then all cosines, each degree-major; no identity."""
    angles = (x[..., None, :] * _scales(min_deg, max_deg, x)[:, None]).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], -1)


def integrated_positional_encoding(mean: Tensor, var: Tensor, min_deg: int, max_deg: int) -> Tensor:
    """Expected encoding of a Gaussian, eq. 14."""
    scales = _scales(min_deg, max_deg, mean)[:, None]
    angles = (mean[..., None, :] * scales).flatten(-2)
    damping = torch.exp(-0.5 * (scales**2 * var[..., None, :])).flatten(-2)
    return torch.cat([damping * angles.sin(), damping * angles.cos()], -1)

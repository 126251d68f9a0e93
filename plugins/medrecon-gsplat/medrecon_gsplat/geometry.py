# SPDX-License-Identifier: Apache-2.0
"""Depth and density of Gaussians."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

PAIRS = 1 << 24  # of points and Gaussians at once


def median_and_spread(before: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Depth at which half of the light is gone, and standard deviation of where it goes: [N] each, as fine as slices.

    Args:
        before: float [N, S], opacity up to the end of each slice.
        ends: float [S + 1].
    """
    lower = torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1]], 1)
    weight = (before - lower).clamp_min(0)
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-10)
    middle = (ends[1:] + ends[:-1]) / 2
    mean = weight @ middle
    spread = (weight * (middle - mean[:, None]) ** 2).sum(1).sqrt()
    k = (before < 0.5).sum(1, keepdim=True).clamp(max=before.shape[1] - 1)
    low, high = lower.gather(1, k).squeeze(1), before.gather(1, k).squeeze(1)
    share = ((0.5 - low) / (high - low).clamp_min(1e-10)).clamp(0, 1)
    k = k.squeeze(1)
    return ends[k] + share * (ends[k + 1] - ends[k]), spread


def extinction(splats: Mapping[str, Tensor], xyz: Tensor) -> Tensor:
    """Density [M] at points [M, 3], such that a line through the middle of a round Gaussian loses the share of light
    that its splat takes.
    """
    scales = splats["scales"].exp()
    # x -> (R^T (x - mean)) / scale, as one matrix product.
    whiten = _rotations(splats["quats"]).mT / scales[..., None]
    shift = (whiten @ splats["means"][..., None]).squeeze(-1)
    size = scales.log().mean(1).exp()
    peak = -torch.log1p(-splats["opacities"].sigmoid().clamp(max=0.999)) / (math.sqrt(2 * math.pi) * size)
    parts = [
        torch.exp(-0.5 * ((torch.einsum("nij,mj->mni", whiten, part) - shift) ** 2).sum(-1)) @ peak
        for part in xyz.split(max(1, PAIRS // len(peak)))
    ]
    return torch.cat(parts)


def _rotations(quats: Tensor) -> Tensor:
    """[N, 4] (w, x, y, z), of any length -> [N, 3, 3]."""
    w, x, y, z = nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).view(-1, 3, 3)

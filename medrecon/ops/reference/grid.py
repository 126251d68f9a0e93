# SPDX-License-Identifier: Apache-2.0
"""A multiresolution hash grid (Mueller et al. 2022, "Instant neural graphics primitives", sec. 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PRIME_Y, PRIME_Z = 2654435761, 805459861
POINT = 1e-9  # smaller Gaussians are points to every resolution there is: erf is 1, and its slope 0


def grid_levels(resolutions: tuple[int, ...], log2_size: int) -> tuple[int, ...]:
    """First entry of each level in the table, and behind them the number of entries."""
    offsets = [0]
    for n in resolutions:
        offsets.append(offsets[-1] + min((n + 1) ** 3, 1 << log2_size))
    return tuple(offsets)


def grid_encode(x: Tensor, sigma: Tensor | None, table: Tensor, resolutions: tuple[int, ...], log2_size: int) -> Tensor:
    """Trilinear; the hash is x + (y P1 xor z P2), which keeps x-neighbours together in memory, unlike the paper's."""
    inside = x.clamp(0, 1)
    offsets = grid_levels(resolutions, log2_size)
    levels = []
    for n, first in zip(resolutions, offsets):
        scaled = inside * n
        node = scaled.detach().nan_to_num(0).long().clamp(max=n - 1)
        fraction = scaled - node
        features = 0
        for corner in range(8):
            step = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2], device=x.device)
            weight = torch.where(step.bool(), fraction, 1 - fraction).prod(-1)
            features = features + weight[:, None] * table[first + _entry(node + step, n, log2_size)]
        if sigma is not None:
            size = math.sqrt(8) * n * sigma.abs().clamp(min=POINT)
            features = features * torch.erf(1 / size)[:, None]
        levels.append(features)
    return torch.cat(levels, -1) if levels else table.new_empty((x.shape[0], 0))


def _entry(node: Tensor, n: int, log2_size: int) -> Tensor:
    x, y, z = node.unbind(-1)
    if (n + 1) ** 3 <= 1 << log2_size:
        return x + (n + 1) * (y + (n + 1) * z)
    return (x + ((y * PRIME_Y) ^ (z * PRIME_Z))) & ((1 << log2_size) - 1)

# SPDX-License-Identifier: Apache-2.0
"""Volume rendering of rays with a number of samples each (Max 1995; mip-NeRF, Barron et al. 2021, eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor


def composite_packed(
    rgb: Tensor,
    density: Tensor,
    t0: Tensor,
    t1: Tensor,
    offsets: Tensor,
    directions: Tensor,
    background: Tensor | None = None,
    stop: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See functions.composite_packed. Laid out as [N, most samples of a ray]; what is behind a ray's end is empty."""
    counts = offsets.diff()
    most = int(counts.max()) if counts.numel() else 0
    inside = torch.arange(most, device=offsets.device) < counts[:, None]

    def rows(x: Tensor) -> Tensor:
        return x.new_zeros((*inside.shape, *x.shape[1:])).index_put((inside,), x)

    start, end = rows(t0), rows(t1)
    optical = rows(density) * ((end - start) * directions.norm(dim=-1, keepdim=True))
    before = torch.cat([torch.zeros_like(optical[:, :1]), optical[:, :-1].cumsum(-1)], -1)
    light = torch.exp(-before)
    weights = torch.where(light < stop, torch.zeros_like(light), -torch.expm1(-optical) * light)
    opacity = weights.sum(-1)
    colour = (weights[..., None] * rows(rgb)).sum(-2)
    if background is not None:
        left = torch.exp(-torch.where(light < stop, 0, optical).sum(-1))  # 1 - opacity would cancel
        colour = colour + left[:, None] * background
    hit = opacity > 0
    reach = (weights * (start + end) / 2).sum(-1)
    depth = torch.where(hit, reach / torch.where(hit, opacity, torch.ones_like(opacity)), torch.zeros_like(opacity))
    return colour, depth, opacity, weights[inside]

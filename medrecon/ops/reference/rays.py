# SPDX-License-Identifier: Apache-2.0
"""Conical frusta to Gaussians (mip-NeRF, Barron et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_DIRECTION_SQ = 1e-10  # google/mipnerf's floor of |direction|^2


def cast_rays(t: Tensor, origins: Tensor, directions: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """Conical frusta to Gaussians, eq. 7, 8 and 16 in the stable form."""
    t0, t1 = t[:, :-1], t[:, 1:]
    mu, hw = (t0 + t1) / 2, (t1 - t0) / 2
    mu_sq, hw_sq = mu**2, hw**2
    total = 3 * mu_sq + hw_sq
    empty = total == 0
    q = torch.where(empty, torch.zeros_like(total), hw_sq / torch.where(empty, torch.ones_like(total), total))
    t_mean = mu + 2 * mu * q
    t_var = hw_sq / 3 - (4 / 15) * q**2 * (12 * mu_sq - hw_sq)
    r_var = radii**2 * (mu_sq / 4 + (5 / 12) * hw_sq - (4 / 15) * hw_sq * q)

    sq = directions**2
    norm_sq = sq.sum(-1, keepdim=True)
    tiny = norm_sq < SMALLEST_DIRECTION_SQ
    others = sq.roll(1, -1) + sq.roll(2, -1)  # |d|^2 - d_i^2 without cancellation
    across = torch.where(
        tiny, 1 - sq / SMALLEST_DIRECTION_SQ, others / torch.where(tiny, torch.ones_like(norm_sq), norm_sq)
    )

    mean = origins[:, None] + directions[:, None] * t_mean[..., None]
    var = t_var[..., None] * sq[:, None] + r_var[..., None] * across[:, None]
    return mean, var

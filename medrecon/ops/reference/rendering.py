# SPDX-License-Identifier: Apache-2.0
"""Volume rendering and resampling (mip-NeRF, Barron et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor


def composite(
    rgb: Tensor, density: Tensor, t: Tensor, directions: Tensor, background: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Volume rendering, eq. 3; see functions.composite."""
    lengths = (t[:, 1:] - t[:, :-1]) * directions.norm(dim=-1, keepdim=True)
    optical = density * lengths
    before = torch.cat([torch.zeros_like(optical[:, :1]), optical[:, :-1].cumsum(-1)], -1)
    weights = -torch.expm1(-optical) * torch.exp(-before)
    opacity = weights.sum(-1)
    colour = (weights[..., None] * rgb).sum(-2)
    if background is not None:
        left = torch.exp(-optical.sum(-1))  # 1 - opacity would cancel
        colour = colour + left[:, None] * background
    hit = opacity > 0
    reach = (weights * (t[:, 1:] + t[:, :-1]) / 2).sum(-1)
    depth = torch.where(hit, reach / torch.where(hit, opacity, torch.ones_like(opacity)), torch.zeros_like(opacity))
    return colour, depth, opacity, weights


def resample(
    t: Tensor,
    weights: Tensor,
    n: int,
    padding: float = 0.01,
    deterministic: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Inverse-transform samples of the blurred histogram (mip-NeRF section 3.2, eq. 18); see functions.resample."""
    wide = torch.cat([weights[:, :1], weights, weights[:, -1:]], -1)
    peaks = torch.maximum(wide[:, :-1], wide[:, 1:])
    mass = (peaks[:, :-1] + peaks[:, 1:]) / 2 + padding
    total = mass.sum(-1, keepdim=True)
    short = (1e-5 - total).clamp(min=0)  # a ray of all-zero weights without padding is sampled evenly
    pdf = (mass + short / mass.shape[-1]) / (total + short)
    zero = torch.zeros_like(pdf[:, :1])
    cdf = torch.cat([zero, pdf[:, :-1].cumsum(-1).clamp(max=1), zero + 1], -1)

    u = quantiles(t, n, deterministic, generator).expand(t.shape[0], n)
    left = (torch.searchsorted(cdf, u.contiguous(), right=True) - 1).clamp(0, pdf.shape[-1] - 1)
    cdf0, cdf1 = cdf.gather(-1, left), cdf.gather(-1, left + 1)
    t0, t1 = t.gather(-1, left), t.gather(-1, left + 1)
    width = cdf1 - cdf0
    part = torch.where(
        width > 0, (u - cdf0) / torch.where(width > 0, width, torch.ones_like(width)), torch.zeros_like(u)
    )
    return torch.minimum(t0 + part.clamp(0, 1) * (t1 - t0), t1)


def quantiles(t: Tensor, n: int, deterministic: bool, generator: torch.Generator | None) -> Tensor:
    """[1, n] evenly spaced, or [N, n] with a random one in each of n strata; in [0, 1); of t's dtype, there."""
    below_one = 1 - torch.finfo(t.dtype).eps
    if deterministic:
        return torch.linspace(0, below_one, n, device=t.device, dtype=t.dtype)[None]
    source = t.device if generator is None else generator.device
    jitter = torch.rand(t.shape[0], n, generator=generator, device=source, dtype=t.dtype).to(t.device)
    return ((torch.arange(n, device=t.device, dtype=t.dtype) + jitter) / n).clamp(max=below_one)

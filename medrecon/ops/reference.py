# SPDX-License-Identifier: Apache-2.0
"""The ops in plain torch: what the kernels must equal, and what runs where there are none. No checks: see functions.py.

Sources: mip-NeRF (Barron et al. 2021, equation numbers below) and its code google/mipnerf (internal/mip.py), whose
conventions and layouts are followed; SuperGlue (Sarlin et al. 2020) for the optimal transport.
"""

from __future__ import annotations

import math

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
        colour = colour + (1 - opacity)[:, None] * background
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

    below_one = 1 - torch.finfo(t.dtype).eps
    if deterministic:
        u = torch.linspace(0, below_one, n, device=t.device, dtype=t.dtype).expand(t.shape[0], n)
    else:
        source = t.device if generator is None else generator.device
        jitter = torch.rand(t.shape[0], n, generator=generator, device=source, dtype=t.dtype).to(t.device)
        u = ((torch.arange(n, device=t.device, dtype=t.dtype) + jitter) / n).clamp(max=below_one)

    left = (torch.searchsorted(cdf, u.contiguous(), right=True) - 1).clamp(0, pdf.shape[-1] - 1)
    cdf0, cdf1 = cdf.gather(-1, left), cdf.gather(-1, left + 1)
    t0, t1 = t.gather(-1, left), t.gather(-1, left + 1)
    width = cdf1 - cdf0
    part = torch.where(
        width > 0, (u - cdf0) / torch.where(width > 0, width, torch.ones_like(width)), torch.zeros_like(u)
    )
    return torch.minimum(t0 + part.clamp(0, 1) * (t1 - t0), t1)


def log_sinkhorn(scores: Tensor, bin_score: Tensor, iterations: int) -> Tensor:
    """Optimal transport with a dustbin, in the log domain (SuperGlue eq. 8-10); see functions.log_sinkhorn."""
    batch, m, n = scores.shape
    if m == 0 or n == 0:  # everything goes to the dustbin, whatever the scores
        plan = scores.new_zeros(batch, m + 1, n + 1)
        plan[:, m, n] = -math.inf
        return plan
    corner = bin_score.expand(batch, 1, 1)
    z = torch.cat([torch.cat([scores, corner.expand(batch, m, 1)], 2), corner.expand(batch, 1, n + 1)], 1)
    log_a = torch.cat([scores.new_zeros(m), scores.new_full((1,), math.log(n))])
    log_b = torch.cat([scores.new_zeros(n), scores.new_full((1,), math.log(m))])
    u, v = scores.new_zeros(batch, m + 1), scores.new_zeros(batch, n + 1)
    for _ in range(iterations):
        u = log_a - torch.logsumexp(z + v[:, None, :], 2)
        v = log_b - torch.logsumexp(z + u[:, :, None], 1)
    return z + u[:, :, None] + v[:, None, :]

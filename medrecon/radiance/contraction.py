# SPDX-License-Identifier: Apache-2.0
"""Scenes without an end: what lies round the box of the points is contracted (mip-NeRF 360, Barron et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon import ops
from medrecon.ops.reference import contract as contract_in_cube
from medrecon.types import RayBatch

HALF = 2.0  # edge of the cube that holds the contracted space, from its middle, in field units


def contract(xyz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points [M, 3] of the field frame into the ball of radius 2 (eq. 10); the unit ball stays as it is.

    Returns:
        the points [M, 3], and by what lengths shrink across and along the line to the middle [M], [M]: the eigenvalues
        (2r - 1) / r^2, twice, and 1 / r^2 of the Jacobian at the distance r > 1; 1 within the unit ball.
    """
    places, across, radial = contract_in_cube((xyz + HALF) / (2 * HALF))
    return places * (2 * HALF) - HALF, across, radial


def contract_gaussians(rays: RayBatch, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The Gaussians of the conical frusta between edges t [N, S+1], contracted (eq. 9: C(mean), J cov J^T).

    Returns:
        mean [N, S, 3], diagonal of the covariance [N, S, 3], and the Jacobian's factor along the line to the middle
        [N, S].
    """
    length = rays.directions.norm(dim=-1, keepdim=True)
    # A cone along z tells what lies along a ray and what across.
    along_z = torch.cat([torch.zeros_like(rays.origins[:, :2]), length], -1)
    reach, spread = ops.cast_rays(t, torch.zeros_like(rays.origins), along_z, rays.radii)
    along, aside = spread[..., 2:], spread[..., :1]
    axis = (rays.directions / length)[:, None]
    mean = rays.origins[:, None] + reach[..., 2:] * axis
    places, across, radial = contract(mean.reshape(-1, 3))
    across, radial = across.view(*t[:, 1:].shape, 1), radial.view(*t[:, 1:].shape, 1)
    # J = across I + (radial - across) u u^T; the covariance is (along - aside) a a^T + aside I.
    u = mean / mean.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    turned = across * axis + (radial - across) * (u * axis).sum(-1, keepdim=True) * u
    var = (along - aside) * turned**2 + aside * (across**2 + (radial**2 - across**2) * u**2)
    return places.view_as(mean), var.clamp_min(0), radial.squeeze(-1)


def spread_edges(near: Tensor, far: Tensor, n: int) -> Tensor:
    """n + 1 edges from near to far [N, 1], evenly in t up to 1 and evenly in 1 / t from there on: [N, n + 1]."""
    share = lambda t: torch.where(t < 1, t / 2, 1 - 1 / (2 * t.clamp_min(1)))  # noqa: E731
    low, high = share(near), share(far)
    s = low + (high - low) * torch.linspace(0, 1, n + 1, device=near.device, dtype=near.dtype)
    return torch.where(s < 0.5, 2 * s, 1 / (2 - 2 * s.clamp(0.5, 1 - 1e-6)))

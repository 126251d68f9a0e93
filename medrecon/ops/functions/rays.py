# SPDX-License-Identifier: Apache-2.0
"""Rays to Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..backends import kernels_for
from . import checks


def cast_rays(t: Tensor, origins: Tensor, directions: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """Approximates the conical frusta along rays by Gaussians with diagonal covariance (mip-NeRF eq. 7, 8, 16).

    Args:
        t: [N, S + 1], ascending fence posts along each ray, in units of ``directions``.
        origins: [N, 3], apexes of the cones.
        directions: [N, 3], not necessarily of unit length.
        radii: [N, 1], radius of the cone at t = 1 (half the pixel's width there, times 2 / sqrt(12)).

    Returns:
        mean, var: [N, S, 3]; differentiable twice in every input.
    """
    checks.floating("cast_rays", t=t, origins=origins, directions=directions, radii=radii)
    if t.dim() != 2 or t.shape[1] < 1:
        raise ValueError(f"cast_rays: t has shape {checks.shape(t)}, expected [N, S + 1]")
    n = t.shape[0]
    checks.shaped("cast_rays", "origins", origins, (n, 3))
    checks.shaped("cast_rays", "directions", directions, (n, 3))
    checks.shaped("cast_rays", "radii", radii, (n, 1))
    if kernels_for(t.device.type):
        return torch.ops.medrecon.cast_rays.default(t, origins, directions, radii)
    return reference.cast_rays(t, origins, directions, radii)

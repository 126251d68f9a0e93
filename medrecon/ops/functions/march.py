# SPDX-License-Identifier: Apache-2.0
"""Where along its ray there is something to look at."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..backends import kernels_for
from . import checks

LARGEST_RESOLUTION = 2048


class Packed(NamedTuple):
    """Intervals of many rays, one ray after the other.

    Attributes:
        offsets: int64 [N + 1]; ray n has intervals offsets[n] to offsets[n + 1].
        ray: int32 [M], the ray of each interval.
        t0, t1: [M], its ends, in units of the ray's direction.
    """

    offsets: Tensor
    ray: Tensor
    t0: Tensor
    t1: Tensor


@torch.no_grad()
def march_rays(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    occupancy: Tensor,
    resolution: int,
    step: float,
    cone: float = 0.0,
    jitter: Tensor | None = None,
    max_samples: int = 1024,
    contract: bool = False,
) -> Packed:
    """Intervals along rays that lie in occupied cells of the unit cube (instant-ngp, Mueller et al. 2022, app. E.1).

    Each ray has a lattice of fence posts that begins at near + jitter * (length of the first interval); an interval
    that begins at t is max(step, cone * t) long. Those whose midpoint lies before ``far``, inside the cube and in an
    occupied cell are returned, in order. Empty cells are leapt over, which changes nothing in what is returned.

    With ``contract`` the cells are those of the contracted space of mip-NeRF 360 (Barron et al. 2022, eq. 10): the ball
    of radius 1/4 round the cube's middle is as it is, what is outside lies between it and the ball of radius 1/2. Rays
    are still given as they are; an interval that begins at t is as long in the contracted space as ``step`` is in that
    ball. What is so far away that its square is no number is not looked at.

    Args:
        origins: [N, 3], in units of the cube [0, 1)^3.
        directions: [N, 3], not necessarily of unit length; t counts them. Components below 1e-30 are taken for 0.
        near, far: [N]; a ray with near >= far has no interval; far may be infinite.
        occupancy: uint8 [ceil(R^3 / 8)]; cell (i, j, k), i on x, is bit b % 8 of byte b // 8, b = i + R * (j + R * k).
        resolution: R, cells along each axis, 1 to 2048.
        step: > 0, least length of an interval, in t. A ray ends where it is too small to move t in this dtype.
        cone: >= 0, growth of the intervals with t.
        jitter: [N], in [0, 1), moves each ray's lattice; None: 0.
        max_samples: the most intervals of a ray; what lies behind them is cut off, without a word.
        contract: whether cells are of the contracted space; cone must be 0 then.

    Returns:
        Packed, without gradient. Rays with a number that is not finite (but far) have no interval.
    """
    check_rays(
        "march_rays", origins, directions, near, far, occupancy, resolution, step, cone, jitter, max_samples, contract
    )
    call = torch.ops.medrecon.march_rays.default if kernels_for(origins.device.type) else reference.march_rays
    return Packed(
        *call(
            origins,
            directions,
            near,
            far,
            occupancy,
            resolution,
            float(step),
            float(cone),
            jitter,
            max_samples,
            contract,
        )
    )


def check_rays(
    op: str, origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, occupancy: Tensor, resolution: int,
    step: float, cone: float, jitter: Tensor | None, max_samples: int, contract: bool = False,
) -> None:  # fmt: skip
    """Raises ValueError unless these are as `march_rays` wants them."""
    given = {} if jitter is None else {"jitter": jitter}
    checks.floating(op, origins=origins, directions=directions, near=near, far=far, **given)
    if origins.dim() != 2 or origins.shape[1] != 3:
        raise ValueError(f"{op}: origins has shape {checks.shape(origins)}, expected [N, 3]")
    n = origins.shape[0]
    checks.shaped(op, "directions", directions, (n, 3))
    for name, x in {"near": near, "far": far, **given}.items():
        checks.shaped(op, name, x, (n,))
    if not 1 <= resolution <= LARGEST_RESOLUTION:
        raise ValueError(f"{op}: resolution is {resolution}, expected 1 to {LARGEST_RESOLUTION}")
    if not isinstance(occupancy, Tensor) or occupancy.dtype != torch.uint8 or occupancy.device != origins.device:
        raise ValueError(f"{op}: occupancy must be a uint8 tensor on {origins.device}")
    checks.shaped(op, "occupancy", occupancy, ((resolution**3 + 7) // 8,))
    if not (0 < step < math.inf and 0 <= cone < math.inf):
        raise ValueError(f"{op}: step is {step} and cone {cone}, expected step > 0 and cone >= 0")
    if contract and cone:
        raise ValueError(f"{op}: cone is {cone}, which must be 0 with contract: steps grow by themselves")
    if max_samples < 0:
        raise ValueError(f"{op}: max_samples is {max_samples}, expected at least 0")

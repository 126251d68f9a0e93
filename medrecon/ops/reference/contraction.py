# SPDX-License-Identifier: Apache-2.0
"""All of space in the unit cube: mip-NeRF 360 (Barron et al. 2022, eq. 10)."""

from __future__ import annotations

import torch
from torch import Tensor


def contract(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ball of radius 1/4 round the cube's middle stays; what is outside comes into the ball of radius 1/2.

    Args:
        x: [M, 3], in units of the cube.

    Returns:
        the places [M, 3], and by what the Jacobian shrinks lengths across and along the way to the middle: [M], [M].
    """
    y = x - 0.5
    square = 16 * (y * y).sum(-1)  # of the distance, in radii of the inner ball
    inverse = square.clamp(min=1).rsqrt()
    across = (2 - inverse) * inverse
    return torch.where((square <= 1)[:, None], x, 0.5 + across[:, None] * y), across, inverse * inverse


def contracted_step(x: Tensor, directions: Tensor, step: Tensor) -> Tensor:
    """[M]: how far to go along ``directions`` from x for as long a way as ``step`` is within the ball."""
    y = x - 0.5
    _, across, radial = contract(x)
    speed = (directions * directions).sum(-1)
    outwards = (y * directions).sum(-1) ** 2 / ((y * y).sum(-1) * speed)
    shrunk = (across**2 * (1 - outwards) + radial**2 * outwards).sqrt()
    return torch.where((across == 1) | (speed == 0), step, step / shrunk)

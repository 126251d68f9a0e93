# SPDX-License-Identifier: Apache-2.0
"""Scenes without an end: what lies round the box of the points is contracted (mip-NeRF 360, Barron et al. 2022)."""

from __future__ import annotations

from torch import Tensor

from medrecon.ops.reference import contract as contract_in_cube

HALF = 2.0  # edge of the cube that holds the contracted space, from its middle, in field units


def contract(xyz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points [M, 3] of the field frame into the ball of radius 2 (eq. 10); the unit ball stays as it is.

    Returns:
        the points [M, 3], and by what lengths shrink across and along the line to the middle [M], [M]: the eigenvalues
        (2r - 1) / r^2, twice, and 1 / r^2 of the Jacobian at the distance r > 1; 1 within the unit ball.
    """
    places, across, radial = contract_in_cube((xyz + HALF) / (2 * HALF))
    return places * (2 * HALF) - HALF, across, radial

# SPDX-License-Identifier: Apache-2.0
"""Samples along rays to pixels, and where to sample next."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..backends import kernels_for
from ..reference.rendering import quantiles
from . import checks


def composite(
    rgb: Tensor, density: Tensor, t: Tensor, directions: Tensor, background: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Volume rendering along rays (mip-NeRF eq. 3, Max 1995).

    Args:
        rgb: [N, S, 3], colour of each interval.
        density: [N, S], >= 0, per unit length of the space that ``directions`` lives in.
        t: [N, S + 1], ascending fence posts.
        directions: [N, 3]; an interval is (t1 - t0) * |direction| long.
        background: [3] or [N, 3], seen through what is left; None is black.

    Returns:
        rgb: [N, 3].
        depth: [N], expected interval midpoint in t given that the ray hits something; 0 where opacity is 0.
        opacity: [N], sum of the weights.
        weights: [N, S]. All differentiable.
    """
    checks.floating("composite", {"background": background}, rgb=rgb, density=density, t=t, directions=directions)
    if density.dim() != 2:
        raise ValueError(f"composite: density has shape {checks.shape(density)}, expected [N, S]")
    n, s = density.shape
    checks.shaped("composite", "rgb", rgb, (n, s, 3))
    checks.shaped("composite", "t", t, (n, s + 1))
    checks.shaped("composite", "directions", directions, (n, 3))
    checks.background("composite", background, n)
    if not kernels_for(density.device.type):
        return reference.composite(rgb, density, t, directions, background)
    behind = rgb.new_zeros(3) if background is None else background
    return torch.ops.medrecon.composite.default(rgb, density, t, directions, behind)


@torch.no_grad()
def resample(
    t: Tensor,
    weights: Tensor,
    n: int,
    padding: float = 0.01,
    deterministic: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """New fence posts where the weights are: samples of mip-NeRF's blurred histogram (section 3.2, eq. 18).

    Args:
        t: [N, S + 1], ascending fence posts; S >= 1.
        weights: [N, S], >= 0.
        n: number of fence posts wanted (one more than the intervals between them).
        padding: added to each blurred weight, so that empty space is still looked at.
        deterministic: evenly spaced quantiles; otherwise one random quantile in each of ``n`` equal strata.
        generator: source of the random numbers; on any device.

    Returns:
        [N, n], ascending, within the ray's t. Carries no gradient, as in the paper's code.
    """
    checks.floating("resample", t=t, weights=weights)
    if weights.dim() != 2 or weights.shape[1] < 1:
        raise ValueError(f"resample: weights has shape {checks.shape(weights)}, expected [N, S] with S >= 1")
    checks.shaped("resample", "t", t, (weights.shape[0], weights.shape[1] + 1))
    if n < 1:
        raise ValueError(f"resample: n is {n}, expected at least 1")
    if padding < 0:
        raise ValueError(f"resample: padding is {padding}, expected at least 0")
    if not kernels_for(t.device.type):
        return reference.resample(t, weights, n, padding, deterministic, generator)
    u = quantiles(t, n, deterministic, generator)
    return torch.ops.medrecon.resample.default(t, weights, u, padding)

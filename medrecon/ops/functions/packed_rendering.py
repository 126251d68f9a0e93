# SPDX-License-Identifier: Apache-2.0
"""Samples along rays to pixels where every ray has a number of samples of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..backends import kernels_for
from . import checks


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
    """Volume rendering along rays (mip-NeRF eq. 3, Max 1995) of which each has its own number of samples.

    Args:
        rgb: [M, 3], colour of each interval, those of ray 0 first.
        density: [M], >= 0, per unit length of the space that ``directions`` lives in.
        t0, t1: [M], begin and end of each interval; in order along a ray, with or without gaps between them.
        offsets: int64 [N + 1], ascending from 0 to M; the samples of ray i are offsets[i] to offsets[i + 1]. On a GPU
            the values are not checked, but never lead outside the samples.
        directions: [N, 3]; an interval is (t1 - t0) * |direction| long.
        background: [3] or [N, 3], seen through what is left; None is black.
        stop: samples that less than this share of the light reaches weigh 0 and get no gradient.

    Returns:
        rgb: [N, 3].
        depth: [N], expected interval midpoint in t given that the ray hits something; 0 where opacity is 0.
        opacity: [N], sum of the weights.
        weights: [M]. All differentiable, twice, in all but offsets and stop.
    """
    name = "composite_packed"
    checks.floating(name, {"background": background}, rgb=rgb, density=density, t0=t0, t1=t1, directions=directions)
    if density.dim() != 1:
        raise ValueError(f"{name}: density has shape {checks.shape(density)}, expected [M]")
    if offsets.dtype != torch.int64 or offsets.dim() != 1 or offsets.shape[0] < 1:
        raise ValueError(f"{name}: offsets is {offsets.dtype} {checks.shape(offsets)}, expected torch.int64 [N + 1]")
    if offsets.device != density.device:
        raise ValueError(f"{name}: offsets is on {offsets.device} but density is on {density.device}")
    m, n = density.shape[0], offsets.shape[0] - 1
    checks.shaped(name, "rgb", rgb, (m, 3))
    checks.shaped(name, "t0", t0, (m,))
    checks.shaped(name, "t1", t1, (m,))
    checks.shaped(name, "directions", directions, (n, 3))
    checks.background(name, background, n)
    if not 0 <= stop < 1:
        raise ValueError(f"{name}: stop is {stop}, expected at least 0 and less than 1")
    if not kernels_for(density.device.type):
        return reference.composite_packed(rgb, density, t0, t1, offsets, directions, background, stop)
    behind = rgb.new_zeros(3) if background is None else background
    return torch.ops.medrecon.composite_packed.default(rgb, density, t0, t1, directions, behind, offsets, stop)

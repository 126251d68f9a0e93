# SPDX-License-Identifier: Apache-2.0
"""Depths and their spread from packed samples."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon import ops
from medrecon.types import RenderOut


def render_out(rgb: Tensor, weights: Tensor, packed: ops.Packed) -> RenderOut:
    """What a renderer says of N rays, from their colours [N, 3] and the weights [M] of their samples.

    The median is where the transmittance falls to half, within a sample as `median_within` has it; where it never does,
    the mean.
    """
    n, ray = len(rgb), packed.ray.long()
    middle = (packed.t0 + packed.t1) / 2
    summed = lambda value: weights.new_zeros(n).index_add(0, ray, value)  # noqa: E731
    total = summed(weights)
    some, safe = total > 1e-10, total.clamp_min(1e-10)
    mean = torch.where(some, summed(weights * middle) / safe, 0.0)
    spread = torch.where(some, (summed(weights * (middle - mean[ray]) ** 2) / safe).sqrt(), 0.0)

    running = torch.cat([weights.new_zeros(1, dtype=torch.float64), weights.detach().double().cumsum(0)])
    first, last = packed.offsets[:-1], packed.offsets[1:]
    half = torch.searchsorted(running[1:], running[first] + 0.5).clamp(max=max(len(weights) - 1, 0))
    crossed = (total >= 0.5) & (half < last)
    median = mean
    if len(weights):
        before = (1 - (running[half] - running[first])).to(weights)
        median = torch.where(crossed, median_within(packed.t0[half], packed.t1[half], before, weights[half]), mean)
    return RenderOut(rgb.clamp(0, 1), mean, torch.where(some, total.clamp(0, 1), 0.0), median, spread)


def median_within(t0: Tensor, t1: Tensor, before: Tensor, weight: Tensor) -> Tensor:
    """Where within [t0, t1] the transmittance falls from ``before`` >= 1/2 to 1/2, if the density is constant there.

    Args:
        t0, t1, before, weight: [N]; ``before - weight`` <= 1/2 is what is left at t1. Transmittance is exponential in
        t, so its logarithm falls evenly.
    """
    fall = torch.log(before.clamp_min(0.5)) - torch.log((before - weight).clamp(torch.finfo(weight.dtype).eps, 0.5))
    return t0 + (t1 - t0) * (torch.log(2 * before.clamp_min(0.5)) / fall.clamp_min(1e-12)).clamp(0, 1)

# SPDX-License-Identifier: Apache-2.0
"""Depths and their spread from packed samples."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon import ops
from medrecon.types import RenderOut


def render_out(rgb: Tensor, weights: Tensor, packed: ops.Packed) -> RenderOut:
    """What a renderer says of N rays, from their colours [N, 3] and the weights [M] of their samples.

    The median is the middle of the sample in which the transmittance falls to half; where it never does, the mean.
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
    median = torch.where(crossed, middle[half], mean) if len(weights) else mean
    return RenderOut(rgb.clamp(0, 1), mean, torch.where(some, total.clamp(0, 1), 0.0), median, spread)

# SPDX-License-Identifier: Apache-2.0
"""A radiance field in a hash grid along rays: marching, the grid, a small network and compositing, op by op."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .contraction import contract as contracted
from .field import field_layers
from .grid import grid_encode
from .march import march_rays
from .packed_rendering import composite_packed

LARGEST_EXPONENT = 15.0  # of the density


class Steps(NamedTuple):
    """The ops that a field is put together from; by default their references."""

    march: Callable = march_rays
    encode: Callable = grid_encode
    composite: Callable = composite_packed


PLAIN = Steps()


def fused_grid(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, occupancy: Tensor, table: Tensor,
    parameters: Tensor, ray_bias: Tensor, jitter: Tensor | None, radii: Tensor | None, background: Tensor | None,
    resolution: int, step: float, cone: float, max_samples: int, stop: float, resolutions: tuple[int, ...],
    log2_size: int, width: int, layers: int, colour_width: int, density_shift: float, contract: bool = False,
    steps: Steps = PLAIN,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See functions.fused_grid; with other ``steps`` it is the same field put together from faster parts."""
    rays = [x.detach() for x in (origins, directions, near, far)]
    offsets, ray, t0, t1 = steps.march(*rays, occupancy, resolution, step, cone, jitter, max_samples, contract)
    ray, middle = ray.long(), (t0 + t1) / 2
    x = origins[ray] + middle[:, None] * directions[ray]
    sigma = None if radii is None else radii[ray] * middle / 2
    radial = None
    if contract:
        x, across, radial = contracted(x)
        sigma = None if sigma is None else sigma * (across * across * radial) ** (1 / 3)
    features = steps.encode(x, sigma, table, tuple(resolutions), log2_size)
    trunk, (density_weight, density_bias), colour_weight, head = field_layers(
        parameters, features.shape[1], width, layers, colour_width
    )
    for weight, bias in trunk:
        features = F.relu(F.linear(features, weight, bias))
    raw = (features @ density_weight.T).squeeze(-1) + density_bias + density_shift
    density = raw.clamp(max=LARGEST_EXPONENT).exp()
    if radial is not None:
        density = density * radial
    hidden = F.relu(F.linear(features, colour_weight) + ray_bias[ray])
    colour = torch.sigmoid(F.linear(hidden, *head))
    rgb, depth, opacity, _ = steps.composite(colour, density, t0, t1, offsets, directions, background, stop)
    return rgb, depth, opacity, _seen(density.detach(), t0, t1, offsets, ray, directions.detach(), stop)


def _seen(
    density: Tensor, t0: Tensor, t1: Tensor, offsets: Tensor, ray: Tensor, directions: Tensor, stop: float
) -> Tensor:
    """int64 [N], how many samples of each ray at least ``stop`` of the light reaches."""
    if stop <= 0:
        return offsets.diff()
    optical = (density * (t1 - t0) * directions.norm(dim=-1)[ray]).double().nan_to_num(0).clamp(max=1e3)
    before = torch.cat([optical.new_zeros(1), optical.cumsum(0)])  # of all rays, one after the other
    reached = torch.exp(before[offsets[:-1]][ray] - before[:-1]) >= stop
    return torch.zeros_like(offsets[1:]).index_add(0, ray, reached.long())


def fused_grid_loss(*inputs, target: Tensor, ray_weight: Tensor, steps: Steps = PLAIN) -> tuple[Tensor, ...]:
    """See functions.fused_grid_loss; ``inputs`` are those of fused_grid."""
    rgb, _, _, seen = fused_grid(*inputs, steps=steps)
    loss = (ray_weight * ((rgb - target) ** 2).mean(-1)).sum()
    return loss, rgb.detach(), seen

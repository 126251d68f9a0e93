# SPDX-License-Identifier: Apache-2.0
"""Walking rays through a grid of occupied cells: every interval is looked at, all rays side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from .contraction import contract as contracted
from .contraction import contracted_step

NO_DIRECTION = 1e-30  # a component smaller than that leads nowhere


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(offsets, ray, t0, t1) as `functions.march_rays` says."""
    n, like = origins.shape[0], {"device": origins.device}
    step_t, cone_t = origins.new_tensor(step), origins.new_tensor(cone)
    directions = torch.where(directions.abs() < NO_DIRECTION, 0, directions)
    jitter = torch.zeros_like(near) if jitter is None else jitter
    enter, leave = (near, far) if contract else _slab(origins, directions, near, far)
    finite = (origins.sum(-1) + directions.sum(-1) + near + jitter).isfinite()
    ray = (finite & (near < far)).nonzero().squeeze(1)
    start = (near + jitter * torch.maximum(step_t, cone_t * near))[ray]
    bend = step_t / cone_t if cone > 0 else origins.new_tensor(torch.inf)
    # From near to the cube there is nothing to see: two intervals before it is early enough.
    index = ((torch.minimum(enter[ray], bend) - start) / step_t).nan_to_num(0, 0, 0).floor().sub(2).clamp(min=0)
    t0 = start + index * step_t

    count = torch.zeros(n, dtype=torch.int64, **like)
    found = []
    while len(ray):
        if contract:
            t1 = t0 + contracted_step(origins[ray] + t0[:, None] * directions[ray], directions[ray], step_t)
        else:
            t1 = torch.where(t0 > bend, t0 * (1 + cone_t), start + (index + 1) * step_t)
        t = (t0 + t1) / 2
        going = (t < far[ray]) & (t <= leave[ray]) & (t1 > t0) & (count[ray] < max_samples)
        ray, start, index, t0, t1, t = (v[going] for v in (ray, start, index, t0, t1, t))
        x = origins[ray] + t[:, None] * directions[ray]
        hit = _occupied(contracted(x)[0] if contract else x, occupancy, resolution)
        found.append((ray[hit], t0[hit], t1[hit]))
        count[ray[hit]] += 1
        t0, index = t1, index + 1
    ray, t0, t1 = (torch.cat(v) for v in zip(*found)) if found else (ray, t0, t0)
    order = ray.argsort(stable=True)
    offsets = torch.cat([count.new_zeros(1), count.cumsum(0)])
    return offsets, ray[order].int(), t0[order], t1[order]


def _slab(origins: Tensor, directions: Tensor, near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    """t between which a ray may be in the unit cube, somewhat widened against rounding."""
    slack = 8 * torch.finfo(origins.dtype).eps * (1 + origins.abs())
    low, high = (-slack - origins) / directions, (1 + slack - origins) / directions
    still = directions == 0
    inside = (origins >= 0) & (origins < 1)
    never = torch.where(inside, -torch.inf, torch.inf)
    first = torch.where(still, never, torch.minimum(low, high)).amax(-1)
    last = torch.where(still, -never, torch.maximum(low, high)).amin(-1)
    return torch.maximum(first, near), torch.minimum(last, far)


def _occupied(x: Tensor, occupancy: Tensor, resolution: int) -> Tensor:
    inside = ((x >= 0) & (x < 1)).all(-1)
    i, j, k = torch.where(inside[:, None], x * resolution, 0).long().clamp(max=resolution - 1).unbind(-1)
    bit = i + resolution * (j + resolution * k)
    return inside & ((occupancy[bit >> 3].long() >> (bit & 7)) & 1).bool()

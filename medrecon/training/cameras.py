# SPDX-License-Identifier: Apache-2.0
"""Where the cameras of a training run stand: groups of them around one visible spot of a volume, outside or inside.

A first ray finds the spot: from outside the body towards a random point of it, or from a random empty voxel (an
airway, a lung, a sinus) in any direction. Cameras then stand back along that ray, tilted up to ``_TILT_DEG`` each way,
nearer and farther, rolled a little. Small previews throw out the cameras that stand in tissue, look past the body or
have something in front of the spot.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.training.exact import product, times
from medrecon.training.raycast import VolumeCaster

PER_GROUP = 8  # cameras of a full group
_LEAST = 6  # a group with fewer is dropped
_TRIES = 20  # cameras proposed per group
_TILT_DEG = 21.0  # from the middle direction; two cameras of a group are up to twice that apart
_PREVIEW = 8  # a preview has 1 / 8 of the size


class Cameras(NamedTuple):
    """float32 [G, C, 4] (fx, fy, cx, cy in px), float32 [G, C, 4, 4] (mm) and bool [G, C]: which of them are good."""

    intrinsics: Tensor
    cam_from_world: Tensor
    good: Tensor


def place_groups(
    caster: VolumeCaster, groups: int, size: tuple[int, int], inside: float, draw: torch.Generator
) -> Cameras:
    """Up to ``groups`` groups of ``PER_GROUP`` cameras each, at least ``_LEAST`` of them good.

    Args:
        size: (width, height) of the pictures in px.
        inside: share of the groups that look from within the body.
        draw: a generator of the CPU, so that cameras are the same whatever device renders.
    """
    device, w = caster.device, size[0]
    tries = 4 * groups
    origin, ray = _first_rays(caster, tries, inside, draw)
    _, reach, _ = caster.cast(origin.to(device), ray.to(device))
    reach = reach.cpu()
    extent = float((caster.last_mm).max())
    within = torch.arange(tries) < round(inside * tries)
    far = extent * torch.exp(_uniform(draw, tries, math.log(0.35), math.log(1.5)))
    distance = torch.where(within, reach * _uniform(draw, tries, 0.5, 0.97), torch.minimum(far, reach * 0.95))
    hit = reach > torch.where(within, 8 * float(caster.spacing.max()), 0.0)
    keep = hit.nonzero()[:, 0][torch.randperm(int(hit.sum()), generator=draw)][: 2 * groups]
    target, distance, back = (origin + reach[:, None] * ray)[keep], distance[keep], -ray[keep]
    cameras = _propose(target, distance, back, w, size, draw)
    good, detail = _judge(caster, cameras, target, distance, size)
    # Of those that have enough cameras, the groups in front of which there is most to see.
    rank = torch.where(good.sum(1) >= _LEAST, detail, torch.full_like(detail, -1.0)).argsort(descending=True)
    full = rank[: min(groups, int((good.sum(1) >= _LEAST).sum()))]
    # The good ones of every group first, in the order in which they were drawn.
    order = torch.sort((~good[full]).int(), dim=1, stable=True).indices[:, :PER_GROUP]
    pick = lambda a: torch.stack([a[g][i] for g, i in zip(full.tolist(), order)]) if len(full) else a[:0, :PER_GROUP]
    return Cameras(pick(cameras.intrinsics), pick(cameras.cam_from_world), pick(good))


def look_at(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """float32 [..., 4, 4] cam_from_world of cameras at ``eye`` looking at ``target``, ``up`` upwards in the picture."""
    z = F.normalize(target - eye, dim=-1)
    x = F.normalize(torch.linalg.cross(z, up, dim=-1), dim=-1)
    rotation = torch.stack([x, torch.linalg.cross(z, x, dim=-1), z], -2)
    pose = torch.zeros(*eye.shape[:-1], 4, 4)
    pose[..., :3, :3], pose[..., 3, 3] = rotation, 1
    pose[..., :3, 3] = -times(rotation, eye[..., None, :])[..., 0, :]
    return pose


def _first_rays(caster: VolumeCaster, n: int, inside: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Origins and unit directions, float32 [n, 3] each; the first ``inside`` * n start in empty voxels."""
    last = caster.last_mm.cpu()
    centre, radius = last / 2, float(last.norm())
    m = round(inside * n)
    ray = F.normalize(torch.randn(n, 3, generator=draw), dim=1)
    # From outside the legs and the cut through the neck are not what one looks at: mostly from around the long axis.
    ray[m:, 2] *= 0.6
    ray[m:] = F.normalize(ray[m:], dim=1)
    aim = (0.12 + 0.76 * torch.rand(n, 3, generator=draw)) * last
    origin = aim - 1.2 * radius * ray
    origin[m:] = origin[m:].lerp(centre - 1.2 * radius * ray[m:], 0.3)
    if m:
        origin[:m] = caster.empty_points(16 * m, draw)[:m]
    return origin, ray


def _propose(target: Tensor, distance: Tensor, back: Tensor, w: int, size: tuple[int, int], draw) -> Cameras:
    """Cameras around the middle one of each group, float32 [G, ``_TRIES``, ...]."""
    g, c = len(target), _TRIES
    side = F.normalize(torch.linalg.cross(back, torch.randn(g, 3, generator=draw), dim=1), dim=1)
    other = torch.linalg.cross(back, side, dim=1)
    turn, tilt = _uniform(draw, (g, c, 1), 0, 2 * math.pi), math.radians(_TILT_DEG) * _uniform(draw, (g, c, 1), 0, 1)
    away = side[:, None] * turn.cos() + other[:, None] * turn.sin()
    direction = back[:, None] * tilt.cos() + away * tilt.sin()
    d = distance[:, None, None] * torch.exp(_uniform(draw, (g, c, 1), -0.25, 0.25))
    eye = target[:, None] + d * direction
    aside = _uniform(draw, (g, c, 2), -0.12, 0.12) * d
    aim = target[:, None] + side[:, None] * aside[..., :1] + other[:, None] * aside[..., 1:]
    superior = torch.tensor([0.0, 0.0, 1.0]).expand(g, 3)
    roll = torch.where(torch.rand(g, generator=draw) < 0.7, 0.25, math.pi) * _uniform(draw, g, -1, 1)
    roll = roll[:, None] + 0.12 * torch.randn(g, c, generator=draw)
    up = torch.where((back[:, 2:].abs() > 0.9), side, superior)[:, None].expand(g, c, 3)
    pose = look_at(eye, aim, up)
    pose = product(_rolled(roll), pose)
    focal = w * _uniform(draw, (g, 1), 0.8, 1.7) * torch.exp(_uniform(draw, (g, c), -0.1, 0.1))
    half = torch.tensor([size[0] / 2, size[1] / 2]).expand(g, c, 2)
    return Cameras(torch.cat([focal[..., None], focal[..., None], half], -1), pose, torch.ones(g, c, dtype=torch.bool))


def _rolled(angle: Tensor) -> Tensor:
    """float32 [..., 4, 4]: rotation about the optical axis."""
    pose = torch.eye(4).repeat(*angle.shape, 1, 1)
    pose[..., 0, 0], pose[..., 0, 1] = angle.cos(), -angle.sin()
    pose[..., 1, 0], pose[..., 1, 1] = angle.sin(), angle.cos()
    return pose


def _judge(
    caster: VolumeCaster, cameras: Cameras, target: Tensor, distance: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """bool [G, C]: the camera sees enough tissue, its target among it, and is not stuck in front of a wall.

    And float32 [G]: how much the slope of the surface changes from one pixel of the previews to the next.
    """
    g, c = cameras.good.shape
    if g == 0:
        return cameras.good, torch.zeros(0)
    w, h = size[0] // _PREVIEW, size[1] // _PREVIEW
    scale = torch.tensor([w / size[0], h / size[1]]).repeat(2)
    buffer = caster.render(
        (cameras.intrinsics * scale).reshape(-1, 4).to(caster.device),
        cameras.cam_from_world.reshape(-1, 4, 4).to(caster.device), (w, h),
    )  # fmt: skip
    depth, opacity = buffer.depth.cpu(), buffer.opacity.cpu()
    pose = cameras.cam_from_world
    there = times(pose[..., :3, :3], target[:, None, None].expand(g, c, 1, 3))[:, :, 0] + pose[..., :3, 3]
    z = there[..., 2].reshape(-1)
    k = (cameras.intrinsics * scale).reshape(-1, 4)
    xy = there[..., :2].reshape(-1, 2) / z[:, None] * k[:, :2] + k[:, 2:]
    x, y = xy[:, 0].long().clamp(0, w - 1), xy[:, 1].long().clamp(0, h - 1)
    seen = depth[torch.arange(g * c), y, x]
    margin = 0.06 * z + 3 * float(caster.spacing.max())
    on_target = (seen > 0) & ((seen - z).abs() < margin) & (z > 0)
    hit = depth > 0
    filled = hit.float().mean((1, 2))
    nearest = (
        torch.where(hit, depth, torch.full_like(depth, 1e9)).flatten(1).kthvalue(max(1, w * h // 50), dim=1).values
    )
    free = nearest > 0.25 * distance.repeat_interleave(c)
    clear = opacity.flatten(1).mean(1) > 0.25
    slope, solid = buffer.normal[:, 2].cpu(), hit[:, :, 1:] & hit[:, :, :-1]
    change = ((slope[:, :, 1:] - slope[:, :, :-1]).abs() * solid).sum((1, 2)) / solid.sum((1, 2)).clamp(min=1)
    return (on_target & free & clear & (filled > 0.3)).view(g, c), change.view(g, c).mean(1)


def _uniform(draw: torch.Generator, shape, low: float, high: float) -> Tensor:
    shape = (shape,) if isinstance(shape, int) else shape
    return low + (high - low) * torch.rand(*shape, generator=draw)

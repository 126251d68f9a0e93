# SPDX-License-Identifier: Apache-2.0
"""Which crops of two views make a pair: random proposals, of which the one with enough in common is taken."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medrecon.training import warp
from medrecon.training.photometric import Dice
from medrecon.training.pool import ViewPool

_PROPOSALS = 6  # pairs of crops proposed per pair; the one with enough overlap is taken
_PROBE = (8, 10)  # points per crop that measure the overlap: rows, columns
_OVERLAP = 0.45  # share of crop A's object that should be seen in crop B


def choose_crops(pool, a, b, b_from_a, two, dice: Dice, size: tuple[int, int], pinhole: bool):
    """float32 [B, 3, 3] twice and scales [B] twice: the best of ``_PROPOSALS`` random pairs of crops.

    An anchor on the object of view A, and where it appears in view B, lie somewhere in the two crops.
    """
    n, m, device = len(a), _PROPOSALS, pool.device
    (width, height), (h, w) = pool.size, size
    two_m = two[:, None].expand(n, m)
    # How coarse: between 0.45 of the coarsest scale at which a crop still lies inside the view, and all of it.
    fit = min(width / w, height / h)
    middle = fit * torch.exp(dice.uniform(math.log(0.5), math.log(0.95), m))
    ratio = dice.uniform(-1, 1, m) * torch.where(two_m, math.log(1.25), math.log(1.6)) / 2
    scale_a = (middle * ratio.exp()).clamp(max=1.05 * fit)
    scale_b = (middle * (-ratio).exp()).clamp(max=1.05 * fit)
    level = torch.where(dice.uniform(0, 1, m) < 0.85, 0.3, math.pi) * dice.uniform(-1, 1, m)
    rare = dice.uniform(0, 1, m)
    reach = torch.where(rare < 0.8, 0.5, torch.where(rare < 0.95, 1.6, math.pi))
    turn = reach * dice.uniform(-1, 1, m) * torch.where(two_m & (rare < 0.8), 0.6, 1.0)
    tip = torch.where(two_m, 0.06, 0.18)[..., None, None] * dice.uniform(-1, 1, m, 2, 2)
    stretch = torch.where(two_m, 0.08, 0.2)[..., None] * dice.uniform(-1, 1, m, 2)
    if pinhole:
        level, turn, tip, stretch = (torch.zeros_like(t) for t in (level, turn, tip, stretch))
    # The first opaque one of four random points.
    spots = dice.uniform(0.02, 0.98, m, 4, 2) * torch.tensor([width, height], dtype=torch.float32, device=device)
    opaque = warp.opaque_at(pool.opacity, a, spots.view(n, m * 4, 2)).view(n, m, 4)
    anchor_a = spots.gather(2, opaque.int().argmax(2)[..., None, None].expand(n, m, 1, 2))[:, :, 0]
    there, _ = warp.view_to_view(pool, a, b, b_from_a, anchor_a)
    anchor_b = torch.where(two[:, None, None] & torch.isfinite(there), there, anchor_a)
    jitter = dice.uniform(-0.3, 0.3, m, 2, 2) * torch.tensor([w, h], dtype=torch.float32, device=device)
    make = lambda anchor, scale, angle, side: warp.view_from_crop(
        _inside(anchor + jitter[:, :, side] * scale[..., None], scale, angle, pool.size, size), scale, angle,
        stretch[..., side], tip[:, :, side], size,
    )  # fmt: skip
    from_a, from_b = make(anchor_a, scale_a, level, 0), make(anchor_b, scale_b, level + turn, 1)
    overlap, filled, detail = _measure(pool, a, b, b_from_a, from_a, from_b, size)
    score = (overlap / _OVERLAP).clamp(max=1) + 0.7 * (filled / 0.4).clamp(max=1) + 0.7 * (detail / 0.1).clamp(max=1)
    score = score + 0.05 * dice.uniform(0, 1, m)
    best = score.argmax(1)
    row = torch.arange(n, device=device)
    return from_a[row, best], from_b[row, best], scale_a[row, best], scale_b[row, best]


def _inside(centre: Tensor, scale: Tensor, angle: Tensor, whole: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Centres [..., 2] moved so that the crops lie in the view as far as they fit."""
    h, w = size
    c, s = angle.cos().abs(), angle.sin().abs()
    half = torch.stack([c * w + s * h, s * w + c * h], -1) * scale[..., None] / 2
    most = torch.tensor(whole, dtype=torch.float32, device=centre.device)
    half = torch.minimum(half, most / 2)
    return torch.minimum(torch.maximum(centre, half), most - half)


def _measure(pool, a, b, b_from_a, from_a, from_b, size) -> tuple[Tensor, Tensor, Tensor]:
    """float32 [B, M] each: share of crop A's object seen in crop B; share of crop A that is object; its contrast."""
    n, m = from_a.shape[:2]
    rows, columns = _PROBE
    h, w = size
    probe = warp.pixel_centres(_PROBE, pool.device) * torch.tensor([w / columns, h / rows], device=pool.device)
    probe = probe.expand(n * m, -1, 2)
    wide = lambda t: t.repeat_interleave(m, 0)
    _, seen = crop_to_crop(
        pool, wide(a), wide(b), from_a.reshape(-1, 3, 3), from_b.reshape(-1, 3, 3), wide(b_from_a), probe, size
    )
    at, _ = warp.transfer(from_a.reshape(-1, 3, 3), probe)
    solid = warp.opaque_at(pool.opacity, wide(a), at).float()
    filled = solid.mean(1)
    grey = _headlit(pool, wide(a), at)
    mean = (grey * solid).mean(1) / filled.clamp(min=1e-3)
    contrast = (((grey - mean[:, None]) ** 2 * solid).mean(1) / filled.clamp(min=1e-3)).sqrt()
    return (seen.float().mean(1) / filled.clamp(min=1e-3)).view(n, m), filled.view(n, m), contrast.view(n, m)


def _headlit(pool: ViewPool, view: Tensor, xy: Tensor) -> Tensor:
    """float32 [B, N], 0..1: grey of the pixels that hold the points [B, N, 2], lit from the camera."""
    w, h = pool.size
    at = xy[..., 1].clamp(0, h - 1).long() * w + xy[..., 0].clamp(0, w - 1).long()
    albedo = pool.albedo.flatten(1)[view[:, None], at].float()
    facing = pool.normal[:, 2].flatten(1)[view[:, None], at].float()
    return albedo * -facing.clamp(max=0) / (255 * 127)


def crop_to_crop(pool, a, b, from_a, from_b, b_from_a, xy, size) -> tuple[Tensor, Tensor]:
    """Points of crops A in crops B and where both see them, apart from what covers them."""
    view_xy, front = warp.transfer(from_a, xy)
    solid_a = warp.opaque_at(pool.opacity, a, view_xy)
    through, seen = warp.view_to_view(pool, a, b, b_from_a, view_xy)
    # One view twice needs no depth, which ends before the object does.
    same = (a == b)[:, None]
    there = torch.where(same[..., None], view_xy, through)
    seen = torch.where(same, solid_a, seen) & front & solid_a
    out, front_b = warp.transfer(warp.inverse(from_b), there)
    h, w = size
    inside = (out[..., 0] >= 0) & (out[..., 1] >= 0) & (out[..., 0] < w) & (out[..., 1] < h)
    return out, seen & front_b & inside & warp.opaque_at(pool.opacity, b, there)

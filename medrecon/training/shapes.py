# SPDX-License-Identifier: Apache-2.0
"""Synthetic shapes with known corners, drawn on the training device (DeTone et al., SuperPoint, 2018, section 4).

A checkerboard may be the floor; convex polygons, stars of lines and ellipses lie on it and over one another. Ellipses
have edges but no corners and only distract. A corner counts where its contrast is real and nothing drawn later touches
it. Shapes are antialiased by their signed distance in px; everything is batched, nothing loops over pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.training.exact import product, times
from medrecon.training.photometric import Dice
from medrecon.training.warp import inverse, pixel_centres

_LAYERS = 6  # shapes over one another, some of them absent
_CORNERS = 6  # most corners of a polygon, most rays of a star
_BOARD = 7  # lines of a checkerboard along each axis
_CONTRAST = 0.12  # least difference of a corner's shape from what it lies on
_CLEAR = 2  # px around a corner that later shapes must leave alone
_POLYGON, _STAR, _ELLIPSE, _ABSENT = range(4)


@dataclass(frozen=True)
class ShapeBatch:
    """B pictures and their corners.

    Attributes:
        image: float32 [B, 1, H, W], 0..1.
        xy: float32 [B, N, 2], places of corners in px, pixel centres at .5.
        valid: bool [B, N]: which of them hold a corner that can be seen.
    """

    image: Tensor
    xy: Tensor
    valid: Tensor


def draw_shapes(batch: int, size: tuple[int, int], seed: int, device: torch.device | str = "cpu") -> ShapeBatch:
    """``batch`` pictures of ``size`` (height, width); the seed and the kind of device decide everything."""
    h, w = size
    device = torch.device(device)
    dice = Dice(torch.Generator(device).manual_seed(seed), batch)
    pixel = pixel_centres(size, device)
    ground = F.interpolate(dice.normal(1, 1, 3, 4), size, mode="bicubic", align_corners=True)[:, 0]
    canvas = dice.uniform(0.1, 0.9) + dice.uniform(0, 0.1) * ground
    canvas, corners, valid = _board(canvas, pixel, size, dice)
    for _ in range(_LAYERS):
        cover, points, there = _shape(pixel, size, dice)
        # A grey of its own, that keeps away from the one below where the shape's middle lies.
        below = (canvas * cover).sum((1, 2), keepdim=True) / cover.sum((1, 2), keepdim=True).clamp(min=1e-3)
        grey = torch.remainder(below + dice.uniform(0.2, 0.8), 1.0)
        touched = F.max_pool2d(cover, 2 * _CLEAR + 1, 1, _CLEAR)
        contrast = (_at(canvas, points) - grey[:, 0]).abs() > _CONTRAST
        valid = torch.cat([valid & (_at(touched, corners) < 0.02), there & contrast], 1)
        corners = torch.cat([corners, points], 1)
        canvas = canvas + cover * (grey - canvas)
    margin = torch.tensor([w - 2.0, h - 2.0], device=device)
    noise = torch.randn(canvas.shape, generator=dice.generator, device=device)
    canvas = canvas + dice.uniform(0, 0.04) * dice.chance(0.6) * noise
    inside = ((corners >= 2) & (corners <= margin)).all(-1)
    return ShapeBatch(canvas.clamp(0, 1)[:, None], corners, valid & inside)


def _board(canvas: Tensor, pixel: Tensor, size: tuple[int, int], dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
    """The canvas with a tilted checkerboard in a third of the pictures, its corners [B, 49, 2] and which there are."""
    h, w = size
    angle, tip = dice.uniform(0, math.pi), dice.uniform(-0.25, 0.25, 2)
    field = dice.uniform(0.1, 0.22) * h  # px per field
    skew = dice.uniform(-0.3, 0.3)
    at = torch.stack([dice.uniform(0.35, 0.65) * w, dice.uniform(0.35, 0.65) * h], -1)[:, 0, 0]
    # Pixels from fields, the board's middle at the origin: turned, sheared, in mild perspective.
    half = (_BOARD - 1) / 2
    c, s, n = (field * angle.cos())[:, 0, 0], (field * angle.sin())[:, 0, 0], skew[:, 0, 0]
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    affine = torch.stack([c, n * c - s, at[:, 0], s, n * s + c, at[:, 1], zero, zero, one], 1).view(-1, 3, 3)
    tipped = torch.stack([one, zero, zero, zero, one, zero, tip[:, 0] / half, tip[:, 1] / half, one], 1).view(-1, 3, 3)
    way = product(affine, tipped)
    back = inverse(way)
    line = torch.arange(_BOARD, device=pixel.device) - half
    v, u = torch.meshgrid(line, line, indexing="ij")
    knot = torch.stack([u, v, torch.ones_like(u)], -1).view(-1, 3)
    corner = times(way, knot)
    corners = corner[..., :2] / corner[..., 2:]
    uvw = times(back, F.pad(pixel, (0, 1), value=1.0))
    uv = (uvw[..., :2] / uvw[..., 2:]).view(-1, h, w, 2)
    # Fields per px along both coordinates, for borders one px wide.
    pitch = torch.stack([_slope(uv[..., 0]), _slope(uv[..., 1])], -1).clamp(min=1e-6)
    edge = ((half - uv.abs()) / pitch + 0.5).clamp(0, 1).amin(-1)
    phase = torch.remainder(uv + half, 2.0)  # 0..1 one colour, 1..2 the other
    wave = torch.where(phase < 1, 0.5 - (phase - 0.5).abs(), (phase - 1.5).abs() - 0.5)
    sides = (2 * wave / pitch).clamp(-1, 1)
    mixed = 0.5 + 0.5 * sides[..., 0] * sides[..., 1]
    dark = dice.uniform(0, 0.5)
    bright = dark + dice.uniform(0.2, 0.5)
    present = dice.chance(0.33)
    cover = edge * present * (uvw[..., 2].view(-1, h, w) > 0)
    there = present[:, 0].expand(-1, _BOARD**2).clone()
    # The outer corners depend on the ground, which may have the same grey: the inner ones count.
    there &= (knot[:, :2].abs() < half).all(-1)
    return canvas + cover * (dark + (bright - dark) * mixed - canvas), corners, there


def _shape(pixel: Tensor, size: tuple[int, int], dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
    """Cover [B, H, W], 0..1, of a random shape per picture; places of corners [B, 7, 2] and which there are."""
    h, w = size
    kind = (dice.uniform(0, 4)[:, 0, 0]).long()
    centre = torch.cat([dice.uniform(0, 1, 1) * w, dice.uniform(0, 1, 1) * h], 1)
    radius = torch.exp(dice.uniform(math.log(0.1), math.log(0.4), 1)) * h
    # Angles all round, none too near to the next.
    count = 3 + (dice.uniform(0, _CORNERS - 2)[:, 0, 0]).long()
    place = torch.arange(_CORNERS, device=pixel.device)
    used = place < count[:, None]
    gap = (0.6 + dice.uniform(0, 1, _CORNERS)) * used
    angle = dice.uniform(0, 2 * math.pi, 1) + 2 * math.pi * gap.cumsum(1) / gap.sum(1, keepdim=True)
    squeeze, turn = dice.uniform(0.45, 1.0, 1), dice.uniform(0, math.pi, 1)
    reach = torch.where((kind == _STAR)[:, None], dice.uniform(0.6, 1.3, _CORNERS), torch.ones_like(gap)) * radius
    x, y = reach * angle.cos(), reach * squeeze * angle.sin()
    tips = torch.stack([x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()], -1) + centre[:, None]
    offset = pixel - centre[:, None]
    u = (offset * torch.cat([turn.cos(), turn.sin()], 1)[:, None]).sum(-1) / radius
    v = (offset * torch.cat([-turn.sin(), turn.cos()], 1)[:, None]).sum(-1) / (radius * squeeze)
    # Signed distances in px, negative inside.
    round_ = ((u**2 + v**2).sqrt() - 1) * radius * squeeze
    thick = dice.uniform(1.0, 3.0, 1)
    polygon, star = torch.full_like(round_, -1e6), torch.full_like(round_, 1e6)
    for i in range(_CORNERS):
        following = torch.where((i + 1 == count)[:, None], tips[:, 0], tips[:, (i + 1) % _CORNERS])
        along = F.normalize(following - tips[:, i], dim=1)
        outward = torch.stack([along[:, 1], -along[:, 0]], 1)
        beside = ((pixel - tips[:, i, None]) * outward[:, None]).sum(-1)
        polygon = torch.where(used[:, i, None], torch.maximum(polygon, beside), polygon)
        ray = tips[:, i] - centre
        share = ((offset * ray[:, None]).sum(-1) / (ray * ray).sum(1, keepdim=True)).clamp(0, 1)
        away = (offset - share[..., None] * ray[:, None]).norm(dim=-1) - thick / 2
        star = torch.where(used[:, i, None], torch.minimum(star, away), star)
    distance = torch.where((kind == _POLYGON)[:, None], polygon, torch.where((kind == _STAR)[:, None], star, round_))
    cover = (0.5 - distance).clamp(0, 1) * (kind != _ABSENT)[:, None]
    there = torch.cat([used & (kind <= _STAR)[:, None], (kind == _STAR)[:, None]], 1)
    return cover.view(-1, h, w), torch.cat([tips, centre[:, None]], 1), there


def _slope(x: Tensor) -> Tensor:
    """Length of the gradient of [B, H, W], per px."""
    dx = F.pad(x[:, :, 1:] - x[:, :, :-1], (0, 1), mode="replicate")
    dy = F.pad(x[:, 1:] - x[:, :-1], (0, 0, 0, 1), mode="replicate")
    return (dx**2 + dy**2).sqrt()


def _at(picture: Tensor, xy: Tensor) -> Tensor:
    """[B, N]: the pixels of [B, H, W] that hold the points [B, N, 2], or the nearest ones."""
    h, w = picture.shape[1:]
    index = xy[..., 1].clamp(0, h - 1).long() * w + xy[..., 0].clamp(0, w - 1).long()
    return picture.flatten(1).gather(1, index)

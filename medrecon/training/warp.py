# SPDX-License-Identifier: Apache-2.0
"""Geometry of crops: where a pixel of one crop lies in its view, in the other view and in the other crop.

A crop is a homography ``view_from_crop`` [3, 3] between pixels (centres at .5). From view to view a point goes through
its depth (Hartley and Zisserman, Multiple View Geometry, 2004, section 6.1); it counts as visible where the other view
has the same depth. All functions are batched and free of loops over samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.training.exact import product, times

if TYPE_CHECKING:
    from medrecon.training.pool import ViewPool

# A depth between four pixels is used only where they lie on one surface; a point is seen where the other view's depth
# agrees with its own. Shares of the depth, and mm.
_ONE_SURFACE = 0.03
_AGREES, _AGREES_MM = 0.005, 0.6


def view_from_crop(
    centre: Tensor, scale: Tensor, angle: Tensor, stretch: Tensor, tip: Tensor, size: tuple[int, int]
) -> Tensor:
    """float32 [..., 3, 3]: crops as similarity, stretch and mild perspective.

    Args:
        centre: [..., 2], the point of the view in px that the crop's middle shows.
        scale: [...], px of the view per px of the crop.
        angle: [...], rad, by which the crop's x axis is turned towards the view's y axis.
        stretch: [...], logarithm of the ratio of both axes' scales.
        tip: [..., 2], change of the homogeneous coordinate from the middle to the right and to the lower edge.
        size: (height, width) of the crop.
    """
    h, w = size
    sx, sy = scale * torch.exp(stretch / 2), scale * torch.exp(-stretch / 2)
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    row = lambda *x: torch.stack(x, -1)
    turn = torch.stack(
        [row(c * sx, -s * sy, centre[..., 0]), row(s * sx, c * sy, centre[..., 1]), row(zero, zero, one)], -2
    )
    tipped = torch.stack(
        [row(one, zero, zero), row(zero, one, zero), row(tip[..., 0] / (w / 2), tip[..., 1] / (h / 2), one)], -2
    )
    shift = torch.tensor([[1, 0, -w / 2], [0, 1, -h / 2], [0, 0, 1]], dtype=scale.dtype, device=scale.device)
    # The middle stays the middle: the perspective acts about it, and the translation after it.
    return product(turn, product(tipped, shift))


def transfer(homography: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
    """Points [..., N, 2] under homographies [..., 3, 3]; and bool [..., N], False at infinity or behind the picture."""
    p = times(homography, F.pad(xy, (0, 1), value=1.0))
    front = p[..., 2] > 1e-4
    return p[..., :2] / torch.where(front, p[..., 2], torch.ones_like(p[..., 2]))[..., None], front


def inverse(h: Tensor) -> Tensor:
    """Inverse of 3 x 3 matrices by their cross products: no solver, which would wait for the device."""
    a, b, c = h[..., 0, :], h[..., 1, :], h[..., 2, :]
    columns = torch.stack([b.cross(c, dim=-1), c.cross(a, dim=-1), a.cross(b, dim=-1)], -1)
    return columns / (a * b.cross(c, dim=-1)).sum(-1)[..., None, None]


def depth_at(depth: Tensor, view: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
    """Depth between the pixels, and where it is known.

    1 / z is linear in the pixel coordinates of a plane, so that is what is interpolated.

    Args:
        depth: float32 [V, H, W], 0 = nothing.
        view: int64 [B], which of them.
        xy: float32 [B, N, 2], px.

    Returns:
        float32 [B, N] and bool [B, N]: False outside the picture and where the four pixels around are not one surface.
    """
    h, w = depth.shape[1:]
    p = xy - 0.5
    inside = (p[..., 0] >= 0) & (p[..., 1] >= 0) & (p[..., 0] <= w - 1) & (p[..., 1] <= h - 1)
    x0, y0 = p[..., 0].floor().clamp(0, w - 2), p[..., 1].floor().clamp(0, h - 2)
    u, v = p[..., 0] - x0, p[..., 1] - y0
    at = (view[:, None] * h + y0.long()) * w + x0.long()
    flat = depth.reshape(-1)
    z = torch.stack([flat[at], flat[at + 1], flat[at + w], flat[at + w + 1]])
    low, high = z.amin(0), z.amax(0)
    known = inside & (low > 0) & (high - low < _ONE_SURFACE * low)
    near = 1 / z.clamp(min=1e-6)
    between = (near[0] * (1 - u) + near[1] * u) * (1 - v) + (near[2] * (1 - u) + near[3] * u) * v
    return torch.where(known, 1 / between, torch.zeros_like(between)), known


def view_to_view(pool: ViewPool, a: Tensor, b: Tensor, b_from_a: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
    """Points of views ``a`` in views ``b``: px [B, N, 2] and bool [B, N], True where both see the same point.

    Args:
        a, b: int64 [B].
        b_from_a: float32 [B, 4, 4], mm.
        xy: float32 [B, N, 2], px of the views ``a``.
    """
    z, known = depth_at(pool.depth, a, xy)
    ka, kb = pool.intrinsics[a][:, None], pool.intrinsics[b][:, None]
    point = torch.cat([(xy - ka[..., 2:]) / ka[..., :2], torch.ones_like(z)[..., None]], -1) * z[..., None]
    there = times(b_from_a[:, :3, :3], point) + b_from_a[:, None, :3, 3]
    front = there[..., 2] > 1e-3
    zb = torch.where(front, there[..., 2], torch.ones_like(z))
    xy_b = there[..., :2] / zb[..., None] * kb[..., :2] + kb[..., 2:]
    seen, seen_known = depth_at(pool.depth, b, xy_b)
    agrees = (seen - zb).abs() < (_AGREES * zb).clamp(min=_AGREES_MM)
    return xy_b, known & front & seen_known & agrees


def opaque_at(opacity: Tensor, view: Tensor, xy: Tensor) -> Tensor:
    """bool [B, N]: the pixel of uint8 [V, H, W] that holds each point [B, N, 2] is at least half opaque."""
    h, w = opacity.shape[1:]
    x, y = xy[..., 0].floor(), xy[..., 1].floor()
    inside = (x >= 0) & (y >= 0) & (x < w) & (y < h)
    at = (view[:, None] * h + y.clamp(0, h - 1).long()) * w + x.clamp(0, w - 1).long()
    return inside & (opacity.reshape(-1)[at] > 127)


def pixel_centres(size: tuple[int, int], device: torch.device) -> Tensor:
    """float32 [H * W, 2], row by row."""
    h, w = size
    y, x = torch.meshgrid(torch.arange(h, device=device) + 0.5, torch.arange(w, device=device) + 0.5, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def resample(images: Tensor, source: Tensor, size: tuple[int, int], scale: Tensor) -> Tensor:
    """Crops of pictures, bilinear; where the crop is coarser than the picture, from a blend with the halved picture.

    Args:
        images: float32 [B, C, H, W].
        source: float32 [B, h * w, 2], px of the picture that each pixel of the crop shows.
        size: (h, w) of the crop.
        scale: float32 [B], px of the picture per px of the crop.

    Returns:
        float32 [B, C, h, w]; 0 outside the picture.
    """
    height, width = images.shape[2:]
    whole = torch.tensor([width, height], dtype=torch.float32, device=images.device)
    grid = (source / whole * 2 - 1).view(-1, *size, 2)
    look = lambda pictures: F.grid_sample(pictures, grid, padding_mode="zeros", align_corners=False)
    return look(images).lerp(look(F.avg_pool2d(images, 2)), scale.log2().clamp(0, 1)[:, None, None, None])

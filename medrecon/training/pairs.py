# SPDX-License-Identifier: Apache-2.0
"""Training pairs with exact correspondences, drawn from a pool of views on the device that holds it.

    batch = draw_pairs(pool, 16, size=(240, 320), seed=step_seed(run_seed, step))
    xy_b, visible = batch.a_to_b(xy_a)

The pool and the seed decide everything, whatever was drawn before: a resumed run sees the same pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from medrecon.training import warp
from medrecon.training.crops import choose_crops, crop_to_crop
from medrecon.training.exact import product, rigid_inverse, times
from medrecon.training.mix import MODALITY, Mix, choose_views
from medrecon.training.photometric import Dice, Surface, disturbed, exposed, lit, other_modality, unit
from medrecon.training.pool import ViewPool

F = TypeVar("F", bound=Callable)


def _exact(function: F) -> F:
    """For what takes something with a ``device`` first: never in half precision, also when called inside autocast,
    which would round coordinates to a pixel and more."""

    @functools.wraps(function)
    def wrapped(first, *args, **options):
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args, **options)

    return wrapped


@dataclass(frozen=True)
class PairBatch:
    """B pairs of crops.

    Attributes:
        image_a, image_b: float32 [B, 1, H, W], 0..1.
        mask_a, mask_b: bool [B, H, W], True where there is an object that can be seen.
        kind: int64 [B]: 0 one view twice, 1 two views, 2 different contrasts (of one view or of two), 3 two modalities.
        view_a, view_b: int64 [B], which views of the pool; equal for one view twice.
        view_from_a, view_from_b: float32 [B, 3, 3], px of the view from px of the crop.
        b_from_a: float32 [B, 4, 4], mm: from the camera of view a to that of view b; the identity for one view twice.
        k_a, k_b: float32 [B, 4], fx fy cx cy of the crops in px; meaningful if drawn with ``pinhole``.
    """

    image_a: Tensor
    image_b: Tensor
    mask_a: Tensor
    mask_b: Tensor
    kind: Tensor
    view_a: Tensor
    view_b: Tensor
    view_from_a: Tensor
    view_from_b: Tensor
    b_from_a: Tensor
    k_a: Tensor
    k_b: Tensor
    pool: ViewPool

    @property
    def device(self) -> torch.device:
        return self.pool.device

    @_exact
    def a_to_b(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        """Where points of the pictures A lie in the pictures B.

        Args:
            xy: float32 [B, N, 2], px, centres at .5.

        Returns:
            float32 [B, N, 2] px and bool [B, N]: True where both pictures show the same point of the object. Where it
            is False the position means nothing.
        """
        there, seen = crop_to_crop(
            self.pool, self.view_a, self.view_b, self.view_from_a, self.view_from_b, self.b_from_a, xy,
            self.image_a.shape[-2:],
        )  # fmt: skip
        return there, seen & _looked_up(self.mask_a, xy) & _looked_up(self.mask_b, there)

    @_exact
    def b_to_a(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        """The other way round; see ``a_to_b``."""
        there, seen = crop_to_crop(
            self.pool, self.view_b, self.view_a, self.view_from_b, self.view_from_a, rigid_inverse(self.b_from_a), xy,
            self.image_a.shape[-2:],
        )  # fmt: skip
        return there, seen & _looked_up(self.mask_b, xy) & _looked_up(self.mask_a, there)


def step_seed(seed: int, step: int) -> int:
    """A seed for each step of a run, unrelated to those of its neighbours (Steele et al., SplitMix64, 2014)."""
    x = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = ((x ^ (x >> shift)) * factor) % 2**64
    return (x ^ (x >> 31)) >> 1


@_exact
def draw_pairs(
    pool: ViewPool,
    batch: int,
    size: tuple[int, int],
    seed: int,
    mix: Mix | None = None,
    pinhole: bool = False,
    photometric: bool = True,
) -> PairBatch:
    """``batch`` pairs of crops.

    Args:
        size: (height, width) of the crops in px.
        seed: decides, with the pool, everything; see ``step_seed``.
        mix: kinds of pairs; None: the default.
        pinhole: crops are neither turned nor tipped, so that each is a pinhole camera's picture (``k_a``, ``k_b``).
        photometric: False: surfaces under the camera's own headlight, nothing disturbed.
    """
    mix = mix or Mix()
    device = pool.device
    draw = torch.Generator(device).manual_seed(seed)
    dice = Dice(draw, batch)
    kind, two, a, b = choose_views(pool, mix, dice, batch)
    b_from_a = product(pool.cam_from_world[b], rigid_inverse(pool.cam_from_world[a]))
    eye = torch.eye(4, device=device).expand(batch, 4, 4)
    b_from_a = torch.where((a == b)[:, None, None], eye, b_from_a)
    view_from_a, view_from_b, scale_a, scale_b = choose_crops(pool, a, b, b_from_a, two, dice, size, pinhole)
    images, masks = _pictures(
        pool, torch.cat([a, b]), torch.cat([view_from_a, view_from_b]), torch.cat([scale_a, scale_b]), b_from_a,
        kind, draw, size, photometric,
    )  # fmt: skip
    return PairBatch(
        images[:batch, None], images[batch:, None], masks[:batch], masks[batch:], kind, a, b, view_from_a, view_from_b,
        b_from_a, _crop_camera(pool, a, view_from_a), _crop_camera(pool, b, view_from_b), pool,
    )  # fmt: skip


def _pictures(pool, view, from_crop, scale, b_from_a, kind, draw, size, photometric) -> tuple[Tensor, Tensor]:
    """float32 [2 B, H, W] and bool [2 B, H, W]: the crops A, then the crops B."""
    n, device = len(view), pool.device
    source, front = warp.transfer(from_crop, warp.pixel_centres(size, device).expand(n, -1, 2))
    depth = pool.depth[view]
    layers = torch.cat(
        [pool.albedo[view, None], pool.normal[view], pool.opacity[view, None], depth[:, None], (depth > 0)[:, None]], 1
    )
    crop = warp.resample(layers, source, size, scale)
    # At an outline the nothing beside it has no say in colour and distance.
    covered = crop[:, 6].clamp(min=1e-3)
    k = pool.intrinsics[view][:, None]
    ray = torch.cat([(source - k[..., 2:]) / k[..., :2], torch.ones_like(source[..., :1])], -1)
    flat = pool.flat[view]
    surface = Surface(
        (crop[:, 0] / (255 * covered)).clamp(max=1), crop[:, 1:4], crop[:, 5] / covered, crop[:, 4] / 255,
        ray.transpose(1, 2).reshape(n, 3, *size), flat,
    )  # fmt: skip
    mask = (surface.opacity > 0.5) & front.view(n, *size)
    if not photometric:
        facing = (-unit(surface.normal)[:, 2]).clamp(0, 1)
        plain = surface.albedo * torch.where(
            flat[:, None, None], (surface.opacity > 0).float(), facing * surface.opacity
        )
        return plain, mask
    dice = Dice(draw, n)
    picture = lit(surface, dice, _suns(b_from_a, dice))
    picture = other_modality(picture, dice, (kind == MODALITY).repeat(2))
    picture, clear = disturbed(exposed(picture, dice), dice)
    return picture, mask & clear


def _suns(b_from_a: Tensor, dice: Dice) -> Tensor:
    """float32 [2 B, 3]: directions to the distant light, in half of the pairs the same in the world for both crops."""
    sun = unit(dice.normal(0.7, 3) - torch.tensor([0, 0, 1.0], device=b_from_a.device))
    a, b = sun.chunk(2)
    same = dice.chance(0.5)[: len(a), :, 0]
    return torch.cat([a, torch.where(same, times(b_from_a[:, :3, :3], a[:, None])[:, 0], b)])


def _looked_up(mask: Tensor, xy: Tensor) -> Tensor:
    """bool [B, N]: the mask [B, H, W] at the pixels that hold the points [B, N, 2]; False outside."""
    h, w = mask.shape[1:]
    x, y = xy[..., 0].floor(), xy[..., 1].floor()
    inside = (x >= 0) & (y >= 0) & (x < w) & (y < h)
    index = y.clamp(0, h - 1).long() * w + x.clamp(0, w - 1).long()
    return inside & mask.flatten(1).gather(1, index)


def _crop_camera(pool: ViewPool, view: Tensor, from_crop: Tensor) -> Tensor:
    """float32 [B, 4]: fx fy cx cy of crops without rotation and perspective."""
    k = pool.intrinsics[view]
    scale, shift = torch.stack([from_crop[:, 0, 0], from_crop[:, 1, 1]], 1), from_crop[:, :2, 2]
    return torch.cat([k[:, :2] / scale, (k[:, 2:] - shift) / scale], 1)

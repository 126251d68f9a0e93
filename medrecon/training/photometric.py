# SPDX-License-Identifier: Apache-2.0
"""Light, exposure, contrast and damage: from the G-buffer of a crop to a picture as a camera would have it.

Surfaces are lit by Phong's model (Illumination for Computer Generated Pictures, 1975, with Blinn's half vector) from
lights near the camera whose strength falls with the square of the distance, as in endoscopy, or from afar, as volume
renderings have it. Every number is drawn per picture; nothing loops over pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_BLUR = 7  # px, size of the blur kernel
_BLOBS = 3


class Dice:
    """Draws one number per picture, shaped [N, 1, 1] so that it broadcasts over [N, H, W].

    Args:
        generator: on the device that works.
        n: pictures.
    """

    def __init__(self, generator: torch.Generator, n: int):
        self.generator, self.n = generator, n

    def uniform(self, low: float, high: float, *more: int) -> Tensor:
        shape = (self.n, *(more or (1, 1)))
        return low + (high - low) * torch.rand(shape, generator=self.generator, device=self.generator.device)

    def normal(self, sigma: float, *more: int) -> Tensor:
        shape = (self.n, *(more or (1, 1)))
        return sigma * torch.randn(shape, generator=self.generator, device=self.generator.device)

    def chance(self, p: float) -> Tensor:
        """bool [N, 1, 1]."""
        return self.uniform(0, 1) < p


@dataclass(frozen=True)
class Surface:
    """What the crops show, before any light.

    Attributes:
        albedo: float32 [N, H, W], 0..1.
        normal: float32 [N, 3, H, W], camera frame, any length.
        depth: float32 [N, H, W], mm; where opacity is 0 anything.
        opacity: float32 [N, H, W], 0..1.
        ray: float32 [N, 3, H, W], camera frame, z = 1.
        flat: bool [N], slices and photographs: their albedo is the picture.
    """

    albedo: Tensor
    normal: Tensor
    depth: Tensor
    opacity: Tensor
    ray: Tensor
    flat: Tensor


def lit(surface: Surface, dice: Dice, sun: Tensor) -> Tensor:
    """float32 [N, H, W], about 0..1: the surface under a random light; flat items as they are.

    Args:
        sun: float32 [N, 3], direction to the distant light in the camera's frame (used by the pictures that have one).
    """
    flat = surface.flat[:, None, None]
    opacity, z = surface.opacity, surface.depth
    weight = opacity + 1e-6
    middle = ((z * weight).sum((1, 2)) / weight.sum((1, 2)))[:, None, None]
    normal, eye = unit(surface.normal), unit(-surface.ray)
    # A lamp beside the camera, in units of the distance of what it shines on, or the sun.
    near = dice.chance(0.65)[:, None]
    at = torch.cat([dice.normal(0.18, 2, 1, 1), dice.uniform(-0.1, 0.15, 1, 1, 1)], 1) * middle[:, None]
    reach = at - surface.ray * z[:, None]
    reach = torch.where(near, reach, sun[:, :, None, None].expand_as(reach))
    away = (reach * reach).sum(1).clamp(min=1e-6).sqrt()
    light = reach / away[:, None]
    power = torch.where(dice.chance(0.6), 2.0, 0.0)  # a renderer's headlight does not fall off
    fall = torch.where(near[:, 0], (middle / away.clamp(min=1.0)).clamp(max=4.0) ** power, torch.ones_like(away))
    facing = (normal * light).sum(1)
    # Wrapped a little where tissue lets light through.
    wrap = dice.uniform(0, 0.3) * dice.chance(0.4)
    diffuse = ((facing + wrap) / (1 + wrap)).clamp(min=0)
    shine = (normal * unit(light + eye)).sum(1).clamp(0, 1) ** torch.exp(dice.uniform(2.0, 4.6))
    glare = dice.uniform(0.0, 1.0) * dice.chance(0.55) * shine * (facing > 0)
    ambient = dice.uniform(0.02, 0.35)
    picture = surface.albedo * (ambient + (1 - ambient) * diffuse * fall) + glare * fall.clamp(max=1.5)
    mean = (picture * weight).sum((1, 2), keepdim=True) / weight.sum((1, 2), keepdim=True)
    picture = picture * (dice.uniform(0.3, 0.55) / mean.clamp(min=1e-3)).clamp(0.3, 4.0)
    ground = dice.uniform(0, 0.6) * dice.chance(0.2)
    return torch.where(flat, surface.albedo * (opacity > 0), picture * opacity + ground * (1 - opacity))


def unit(vectors: Tensor) -> Tensor:
    """Vectors along axis 1 at length 1; 0 stays 0. (Several times faster than torch's norm over a short axis.)"""
    return vectors * (vectors * vectors).sum(1, keepdim=True).clamp(min=1e-12).rsqrt()


def other_modality(picture: Tensor, dice: Dice, which: Tensor) -> Tensor:
    """Another contrast, as of another sequence, window or stain: a random curve, often inverted, not always monotone.

    Args:
        picture: float32 [N, H, W], 0..1.
        which: bool [N]: the pictures to change.
    """
    knots = 6
    steps = dice.uniform(0.02, 1.0, knots).cumsum(1)
    steps = (steps - steps[:, :1]) / (steps[:, -1:] - steps[:, :1])
    bent = torch.where(dice.chance(0.35)[:, 0], (steps + dice.normal(0.25, knots)).clamp(0, 1), steps)
    curve = torch.where(dice.chance(0.6)[:, 0], 1 - bent, bent)
    return torch.where(which[:, None, None], _by_curve(picture, curve), picture)


def exposed(picture: Tensor, dice: Dice) -> Tensor:
    """Gain, offset, gamma and a gentle monotone curve."""
    strong = torch.where(dice.chance(0.3), 1.0, 0.45)
    x = (picture * torch.exp(strong * dice.normal(0.3)) + strong * dice.normal(0.04)).clamp(0, 1)
    x = x.clamp(min=1e-4) ** torch.exp(strong * dice.normal(0.35))
    bend = strong * dice.uniform(-0.12, 0.12)
    return x + bend * torch.sin(2 * math.pi * x)


def disturbed(picture: Tensor, dice: Dice) -> tuple[Tensor, Tensor]:
    """Uneven light, vignetting, things in the way, blur and noise.

    Returns:
        float32 [N, H, W], 0..1, and bool [N, H, W]: True where the scene can still be seen.
    """
    n, h, w = picture.shape
    device = picture.device
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, h, device=device), torch.linspace(-1, 1, w, device=device) * w / h, indexing="ij"
    )
    uneven = F.interpolate(dice.normal(0.5, 1, 4, 5), (h, w), mode="bicubic", align_corners=True)[:, 0]
    picture = picture * torch.exp(dice.uniform(0, 0.7) * dice.chance(0.25) * uneven)
    radius2 = (x - dice.normal(0.15)) ** 2 + (y - dice.normal(0.15)) ** 2
    picture = picture * (1 - dice.uniform(0, 0.45) * dice.chance(0.4) * radius2 / (1 + (w / h) ** 2)).clamp(min=0)
    clear = torch.ones_like(picture)
    for _ in range(_BLOBS):
        cover = _blob(x, y, dice) * dice.chance(0.08)
        picture = picture * (1 - cover) + cover * torch.where(dice.chance(0.3), 1.0, dice.uniform(0, 0.7))
        clear = torch.minimum(clear, 1 - cover)
    # The round picture of an endoscope.
    rim = ((dice.uniform(0.95, 1.25) - radius2.sqrt()) * h / 4).clamp(0, 1)
    rim = torch.where(dice.chance(0.05), rim, torch.ones_like(rim))
    picture, clear = picture * rim, torch.minimum(clear, rim)
    picture = _blurred(picture, dice)
    sigma = dice.uniform(0, 0.03) * dice.chance(0.6)
    shot = dice.uniform(0, 0.05) * dice.chance(0.3)
    noise = torch.randn(picture.shape, generator=dice.generator, device=device)
    picture = picture + noise * (sigma + shot * picture.clamp(min=0).sqrt())
    return picture.clamp(0, 1), clear > 0.7


def _blob(x: Tensor, y: Tensor, dice: Dice) -> Tensor:
    """float32 [N, H, W], 0..1: a soft-edged ellipse somewhere: smoke, a drop, an instrument's tip."""
    angle = dice.uniform(0, math.pi)
    u, v = x - dice.uniform(-1.3, 1.3), y - dice.uniform(-1, 1)
    along = (u * angle.cos() + v * angle.sin()) / torch.exp(dice.uniform(-2.6, -0.2))
    across = (v * angle.cos() - u * angle.sin()) / torch.exp(dice.uniform(-2.8, -1.4))
    return ((1.15 - (along**2 + across**2).sqrt()) * 8).clamp(0, 1)


def _blurred(picture: Tensor, dice: Dice) -> Tensor:
    """Each picture under its own elongated Gaussian: out of focus, or moved."""
    n, device = picture.shape[0], picture.device
    r = torch.arange(_BLUR, device=device) - _BLUR // 2
    v, u = torch.meshgrid(r.float(), r.float(), indexing="ij")
    angle = dice.uniform(0, math.pi)
    wide = 0.15 + dice.uniform(0, 1.3) * dice.chance(0.35)
    long = wide + dice.uniform(0, 2.0) * dice.chance(0.15)
    along, across = u * angle.cos() + v * angle.sin(), v * angle.cos() - u * angle.sin()
    kernel = torch.exp(-0.5 * ((along / long) ** 2 + (across / wide) ** 2))
    kernel = kernel / kernel.sum((1, 2), keepdim=True)
    padded = F.pad(picture[None], (_BLUR // 2,) * 4, mode="replicate")
    return F.conv2d(padded, kernel[:, None], groups=n)[0]


def _by_curve(x: Tensor, curve: Tensor) -> Tensor:
    """float32 [N, H, W] under piecewise linear curves [N, K] over 0..1."""
    k = curve.shape[1]
    at = x.clamp(0, 1) * (k - 1)
    low = at.floor().clamp(max=k - 2).long()
    left = curve.gather(1, low.flatten(1)).view_as(x)
    right = curve.gather(1, (low + 1).flatten(1)).view_as(x)
    return left + (right - left) * (at - low)

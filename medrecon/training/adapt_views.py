# SPDX-License-Identifier: Apache-2.0
"""Two looks at one picture for adapting: crops under random homographies, with the changes that an endoscope makes.

Pixel coordinates have the centre of the first pixel at (0.5, 0.5); homographies are float32 [3, 3] or [B, 3, 3]. Torch
alone, on the pictures' device.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.training.detector import blur, pixel_centres


class Looks(NamedTuple):
    """B crops of pictures.

    Attributes:
        images: float32 [B, 1, H, W] in 0..1.
        masks: bool [B, H, W], True = shows something that may be used.
        picture_from_crop: [B, 3, 3].
    """

    images: Tensor
    masks: Tensor
    picture_from_crop: Tensor


def transfer(homography: Tensor, xy: Tensor) -> Tensor:
    """[B, N, 2] px under [B, 3, 3]."""
    p = torch.cat([xy, torch.ones_like(xy[..., :1])], -1) @ homography.transpose(-1, -2)
    return p[..., :2] / p[..., 2:].clamp(min=1e-6)


def from_corners(corners: Tensor, to: Tensor) -> Tensor:
    """The homography [3, 3] that takes four points [4, 2] to four others (the direct linear transform, exact for 4)."""
    x, y = corners.double().unbind(1)
    u, v = to.double().unbind(1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = [
        torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 1),
        torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 1),
    ]
    solved = torch.linalg.solve(torch.cat(rows), torch.cat([u, v]))
    return torch.cat([solved, solved.new_ones(1)]).view(3, 3).float()


def random_homography(
    crop: tuple[int, int], centre: Tensor, generator: torch.Generator, strength: float = 1.0
) -> Tensor:
    """``picture_from_crop`` [3, 3] on the CPU for a crop (height, width) whose middle looks at ``centre`` [2] px.

    Turned by up to 30 degrees, zoomed by 0.7 to 1.4, corners moved by up to an eighth of the crop; all of it times
    ``strength``. Numbers are drawn on the CPU, so that every device sees the same.
    """
    height, width = crop
    corners = torch.tensor([(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)])
    middle = torch.tensor([width / 2, height / 2])
    turn, zoom = (torch.rand(2, generator=generator) * 2 - 1).tolist()
    angle = math.radians(30) * turn * strength
    rotation = torch.tensor([(math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))])
    seen = (corners - middle) @ rotation.T * math.exp(zoom * strength * math.log(1.4))
    seen = seen + (torch.rand(4, 2, generator=generator) - 0.5) * torch.tensor([width, height]) * strength / 4
    return from_corners(corners, seen + centre)


def look(picture: Tensor, mask: Tensor, picture_from_crop: Tensor, crop: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A crop float32 [1, h, w] of a picture float32 [1, H, W], and where it shows something to use, bool [h, w].

    Args:
        mask: bool [H, W]; beyond the picture there is nothing to use.
    """
    height, width = crop
    xy = transfer(picture_from_crop, pixel_centres(height, width, picture.device))
    size = xy.new_tensor([picture.shape[2], picture.shape[1]])
    grid = (2 * xy / size - 1).view(1, height, width, 2)
    seen = F.grid_sample(picture[None], grid, padding_mode="reflection", align_corners=False)[0]
    allowed = F.grid_sample(mask[None, None].float(), grid, padding_mode="zeros", align_corners=False)[0, 0]
    return seen, allowed > 0.99


def random_centre(mask: Tensor, generator: torch.Generator) -> Tensor:
    """A random pixel [2] (x, y) of a mask bool [H, W] on the CPU, its middle where it is empty."""
    at = mask.nonzero()
    if not len(at):
        return torch.tensor([mask.shape[1] / 2, mask.shape[0] / 2])
    return at[int(torch.randint(len(at), (1,), generator=generator))].flip(0) + 0.5


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """What an endoscope changes between two looks: float32 [B, 1, H, W] in 0..1 -> the same.

    Exposure and gamma; the light's fall-off round another middle; mirror reflections; blur (focus, motion); noise of
    the sensor, more of it where it is bright. Numbers are drawn on the CPU.
    """
    batch, _, height, width = images.shape

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return (torch.rand((batch, *(shape or (1, 1, 1))), generator=generator) * (high - low) + low).to(images.device)

    x = images.clamp(0, 1) ** torch.exp(draw(-0.35, 0.35)) * torch.exp(draw(-0.4, 0.3))
    centres = pixel_centres(height, width, images.device).view(1, height, width, 2)
    unit = centres / max(height, width)
    light = unit - draw(0.1, 0.9, 1, 1, 2)
    x = x / (1 + draw(0, 1.2) * light.square().sum(3)[:, None])
    for _ in range(3):  # each an ellipse with a soft rim; the larger, the rarer
        spot = (unit - draw(0.0, 1.0, 1, 1, 2)) / (0.004 + 0.03 * draw(0, 1, 1, 1, 2) ** 2)
        x = x + draw(-0.6, 1.2).clamp(min=0) * torch.exp(-spot.square().sum(3)[:, None])
    x = _blurred(x, generator)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    x = x + noise * (0.003 + 0.025 * draw(0, 1) ** 2) * (0.3 + x.clamp(0, 1)).sqrt()
    return x.clamp(0, 1)


def _blurred(x: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the pictures out of focus or moved, each in its own way."""
    out = []
    for one in x.split(1):
        kind, amount, angle = torch.rand(3, generator=generator).tolist()
        if kind < 0.25:
            one = blur(one, 0.4 + 1.1 * amount)
        elif kind < 0.5:
            one = F.conv2d(F.pad(one, (4, 4, 4, 4), mode="replicate"), _motion(1 + 3 * amount, angle, one))
        out.append(one)
    return torch.cat(out)


def _motion(length_px: float, turn: float, like: Tensor) -> Tensor:
    """Kernel [1, 1, 9, 9] of a straight movement in a direction of turn * 180 degrees."""
    steps = torch.linspace(-0.5, 0.5, 17) * length_px * 2
    at = torch.stack([steps * math.cos(math.pi * turn), steps * math.sin(math.pi * turn)], 1).clamp(-4, 4)
    grid = torch.arange(-4.0, 5.0)
    weight = lambda a: (1 - (grid[None] - a[:, None]).abs()).clamp(min=0)  # noqa: E731
    kernel = torch.einsum("ny,nx->yx", weight(at[:, 1]), weight(at[:, 0]))
    return (kernel / kernel.sum()).to(like)[None, None]

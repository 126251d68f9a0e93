# SPDX-License-Identifier: Apache-2.0
"""Two looks at one picture for adapting: crops under random homographies, with the changes that an endoscope makes.

Pixel coordinates have the centre of the first pixel at (0.5, 0.5). Torch alone, on the pictures' device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medrecon.training.photometric import Dice, disturbed, exposed
from medrecon.training.warp import pixel_centres, resample, transfer, view_from_crop

_GLINTS = 3


def random_crop(crop: tuple[int, int], centre: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """``picture_from_crop`` float32 [3, 3] for a crop (height, width) whose middle shows ``centre`` [2] px.

    Turned by up to 30 degrees, zoomed by 0.7 to 1.4, stretched by up to a fifth, tipped so that its edges are up to an
    eighth nearer or farther; all of it times ``strength``.
    """
    turn, zoom, stretch, *tip = ((torch.rand(5, generator=generator, device=generator.device) * 2 - 1) * strength).cpu()
    angle, scale = turn * math.radians(30), torch.exp(zoom * math.log(1.4))
    return view_from_crop(centre.cpu(), scale, angle, stretch * 0.2, torch.stack(tip) / 8, crop).to(centre.device)


def look(picture: Tensor, mask: Tensor, picture_from_crop: Tensor, crop: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A crop float32 [1, h, w] of a picture float32 [1, H, W], and where it shows something to use, bool [h, w].

    Args:
        mask: bool [H, W]; beyond the picture there is nothing to use.
    """
    xy, front = transfer(picture_from_crop, pixel_centres(crop, picture.device))
    both = torch.cat([picture, mask[None].float()])
    step = torch.linalg.det(picture_from_crop).abs().sqrt()  # px of the picture per px of the crop, in its middle
    seen, allowed = resample(both[None], xy[None], crop, step[None])[0].split(1)
    return seen, (allowed[0] > 0.99) & front.view(crop)


def random_centre(mask: Tensor, generator: torch.Generator) -> Tensor:
    """A random pixel [2] (x, y) of a mask bool [H, W], its middle where it is empty."""
    at = mask.nonzero()
    if not len(at):
        return torch.tensor([mask.shape[1] / 2, mask.shape[0] / 2], device=mask.device)
    return at[torch.randint(len(at), (1,), generator=generator, device=generator.device)[0]].flip(0) + 0.5


def disturb(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What an endoscope changes between two looks, on float32 [B, H, W] in 0..1.

    Exposure, the light's fall-off round another middle, mirror reflections, and what every camera adds.

    Returns:
        the pictures again, and bool [B, H, W]: True where the scene can still be seen.
    """
    n, height, width = images.shape
    dice = Dice(generator, n)
    xy = pixel_centres((height, width), images.device).view(1, height, width, 2) / max(height, width)
    away = (xy - dice.uniform(0.1, 0.9, 1, 1, 2)).square().sum(3)
    x = exposed(images, dice) / (1 + dice.uniform(0, 1.5) * away)
    clear = torch.ones_like(x, dtype=torch.bool)
    for _ in range(_GLINTS):  # an ellipse with a soft rim each; the larger, the rarer
        reach = 0.004 + 0.03 * dice.uniform(0, 1, 1, 1, 2) ** 2
        spot = torch.exp(-((xy - dice.uniform(0, 1, 1, 1, 2)) / reach).square().sum(3))
        spot = spot * dice.uniform(-0.6, 1.2).clamp(min=0)
        x, clear = x + spot, clear & (spot < 0.3)
    x, seen = disturbed(x, dice)
    return x, clear & seen

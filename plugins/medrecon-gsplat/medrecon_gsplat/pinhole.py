# SPDX-License-Identifier: Apache-2.0
"""Any camera's picture out of a pinhole's, which is what a rasteriser draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.errors import InputError
from medrecon.types import Camera

WIDEST = 4  # times as wide or high as the picture


@dataclass(frozen=True, slots=True)
class Pinhole:
    """Attributes:
    camera: what the rasteriser draws.
    grid: float32 [P, 2] where in it the pixels of the real camera lie, from -1 to 1; None where they are its pixels.
    """

    camera: Camera
    grid: Tensor | None

    def pick(self, picture: Tensor, pixels: Tensor) -> Tensor:
        """[H, W, D] of the pinhole -> [N, D] at pixels int64 [N] of the real camera, bilinear."""
        if self.grid is None:
            return picture.flatten(0, 1)[pixels]
        grid = self.grid.to(picture.device)[pixels][None, None]
        at = F.grid_sample(picture.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=False)
        return at[0, :, 0].T


@lru_cache(maxsize=64)
def pinhole_of(camera: Camera) -> Pinhole:
    """A pinhole of the same focal length, wide enough for all that the camera sees.

    Raises InputError: it sees too much for a plane.
    """
    (fx, fy), (w, h) = camera.focal_px, (camera.width_px, camera.height_px)
    if camera.model in ("SIMPLE_PINHOLE", "PINHOLE"):
        return Pinhole(camera, None)
    u, v = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    directions = camera.unproject(np.stack([u, v], -1).reshape(-1, 2))
    at = directions[:, :2] / directions[:, 2:] * (fx, fy)
    low, high = np.floor(at.min(0)) - 1, np.ceil(at.max(0)) + 1
    size = high - low
    if not np.isfinite(size).all() or size[0] > WIDEST * w or size[1] > WIDEST * h:
        raise InputError(
            f"a {camera.model} camera of this width cannot be splatted onto a plane",
            "use radiance: {name: mipgrid}, which follows each pixel's own ray",
        )
    grid = torch.from_numpy((2 * (at - low) / size - 1).astype(np.float32))
    width, height = (int(math.ceil(s)) for s in size)
    return Pinhole(Camera("PINHOLE", width, height, (fx, fy, -low[0], -low[1])), grid)

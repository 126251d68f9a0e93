# SPDX-License-Identifier: Apache-2.0
"""Whole pictures for renderers that render whole views."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from medrecon.radiance.pictures import nothing_left, resized, training_picture
from medrecon.radiance.scene import Scene
from medrecon.types import FrameSet, RayBatch


@dataclass(frozen=True, slots=True)
class ViewPool:
    """Takes the place of `PixelPool` where a step sees one picture.

    Attributes:
        views: of each picture, in one size or several, its usable pixels: n rays, and their colours uint8 [n, 3].
    """

    views: tuple[tuple[RayBatch, Tensor], ...]

    @staticmethod
    def build(scene: Scene, frames: FrameSet, frame_ids: list[int], factors: tuple[float, ...] = (1.0,)) -> "ViewPool":
        """As `PixelPool.build`.  Raises StageError when every pixel is masked."""
        by_id, views = frames.by_id(), []
        for factor, i in product(factors, frame_ids):
            camera = resized(scene.cameras[i], factor)
            image, mask = training_picture(by_id[i], camera)
            rays = scene.camera_rays(camera, scene.cam_from_sfm[i], scene.near_far[i], i)
            colours = torch.from_numpy(np.ascontiguousarray(image.reshape(-1, 3)))
            if mask is not None:
                usable = torch.from_numpy(np.flatnonzero(mask.ravel()))
                rays, colours = rays[usable], colours[usable]
            if len(rays):
                views.append((rays, colours))
        if not views:
            raise nothing_left()
        return ViewPool(tuple(views))

    def to(self, device: str) -> "ViewPool":
        return ViewPool(tuple((rays.to(device), colours.to(device)) for rays, colours in self.views))

    def batch(
        self, n: int, background_share: float, generator: torch.Generator, scene: Scene
    ) -> tuple[RayBatch, Tensor]:
        """All usable pixels of a picture drawn at random; of no account is how many rays were asked for, and which."""
        k = int(torch.randint(len(self.views), (1,), generator=generator, device=generator.device))
        rays, colours = self.views[k]
        return rays, colours.float() / 255

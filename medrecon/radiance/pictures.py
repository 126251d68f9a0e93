# SPDX-License-Identifier: Apache-2.0
"""Pictures at training resolution, and random pixels of them as rays with colours."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
import torch
from torch import Tensor

from medrecon.errors import InputError, StageError
from medrecon.radiance.background import background_mask
from medrecon.radiance.scene import Scene, pixel_directions
from medrecon.types import Camera, Frame, FrameSet, RayBatch


def training_camera(camera: Camera, max_size_px: int) -> Camera:
    """The camera of the picture reduced to a longer side of at most ``max_size_px``; never enlarged."""
    factor = min(1.0, max_size_px / max(camera.width_px, camera.height_px))
    return camera.scaled(max(1, round(camera.width_px * factor)), max(1, round(camera.height_px * factor)))


def resized(camera: Camera, factor: float) -> Camera:
    """The camera of the picture made smaller by a factor."""
    if factor == 1.0:
        return camera
    return camera.scaled(max(1, round(camera.width_px * factor)), max(1, round(camera.height_px * factor)))


def nothing_left() -> StageError:
    return StageError("no pixel is left to train on: the masks hide everything", "check or switch off the masks")


def training_picture(frame: Frame, camera: Camera) -> tuple[np.ndarray, np.ndarray | None]:
    """Picture uint8 [H, W, 3] and mask bool [H, W] (or None) at the size of ``camera``.

    A reduced pixel is used only if every pixel it was made from is.
    """
    size = (camera.width_px, camera.height_px)
    image, mask = frame.load_image(), frame.load_mask()
    if mask is not None and mask.shape != image.shape[:2]:
        raise InputError(f"the mask of frame {frame.name} has another size than its picture", "rerun the masks stage")
    if (image.shape[1], image.shape[0]) != size:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        if mask is not None:
            mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.999
    return image, mask


@dataclass(frozen=True, slots=True)
class PixelPool:
    """Pixels of the training pictures, in one size or several: F pictures, every frame once per size.

    Attributes:
        colours: uint8 [P, 3], pixels of all pictures back to back.
        foreground, background: int64 indices of pixels that may be drawn, for each size; masked ones are in neither.
        pixel_offsets: int64 [F + 1], where each picture begins.
        directions: float32 [D, 3] camera-frame directions of each distinct camera, back to back; radii float32 [D].
        direction_offsets: int64 [F], where the directions of each picture's camera begin.
        rotations, centres: float32 [F, 3, 3] field-from-camera and [F, 3].
        near_far: float32 [F, 2].  frame_ids: int64 [F].
    """

    colours: Tensor
    foreground: tuple[Tensor, ...]
    background: tuple[Tensor, ...]
    pixel_offsets: Tensor
    directions: Tensor
    radii: Tensor
    direction_offsets: Tensor
    rotations: Tensor
    centres: Tensor
    near_far: Tensor
    frame_ids: Tensor

    @staticmethod
    def build(scene: Scene, frames: FrameSet, frame_ids: list[int], factors: tuple[float, ...] = (1.0,)) -> "PixelPool":
        """Pool of the frames at each of ``factors`` times the scene's resolution.

        Raises:
            StageError: every pixel is masked.
        """
        by_id = frames.by_id()
        colours, fore, back, offsets, start = [], [], [], [0], []
        tables: dict[Camera, int] = {}
        directions, radii, n_directions = [], [], 0
        rotations, centres = [], []
        for factor, i in product(factors, frame_ids):
            camera = resized(scene.cameras[i], factor)
            image, mask = training_picture(by_id[i], camera)
            dark = background_mask(image, mask) if scene.background == "black" else np.zeros(image.shape[:2], bool)
            usable = np.ones(image.shape[:2], bool) if mask is None else mask
            fore.append(np.flatnonzero((usable & ~dark).ravel()) + offsets[-1])
            back.append(np.flatnonzero((usable & dark).ravel()) + offsets[-1])
            colours.append(image.reshape(-1, 3))
            offsets.append(offsets[-1] + image.shape[0] * image.shape[1])
            if camera not in tables:
                d, r = pixel_directions(camera)
                tables[camera] = n_directions
                directions.append(d.reshape(-1, 3).astype(np.float32))
                radii.append(r.ravel().astype(np.float32))
                n_directions += len(directions[-1])
            start.append(tables[camera])
            pose = scene.cam_from_field(scene.cam_from_sfm[i])
            rotations.append(pose.rotation.T)
            centres.append(pose.center)
        if not sum(map(len, fore)) + sum(map(len, back)):
            raise nothing_left()
        tensor = lambda parts, dtype: torch.from_numpy(np.ascontiguousarray(np.asarray(parts, dtype)))  # noqa: E731
        n, k = len(frame_ids), len(factors)
        by_size = (
            lambda parts: tuple(  # noqa: E731
                tensor(np.concatenate(parts[n * j : n * (j + 1)]), np.int64) for j in range(k)
            )
        )
        return PixelPool(
            torch.from_numpy(np.concatenate(colours)),
            by_size(fore),
            by_size(back),
            tensor(offsets, np.int64),
            torch.from_numpy(np.concatenate(directions)),
            torch.from_numpy(np.concatenate(radii)),
            tensor(start, np.int64),
            tensor(rotations, np.float32),
            tensor(centres, np.float32),
            tensor([scene.near_far[i] for i in frame_ids] * k, np.float32),
            tensor(list(frame_ids) * k, np.int64),
        )

    def to(self, device: str) -> "PixelPool":
        moved = lambda x: x.to(device) if isinstance(x, Tensor) else tuple(part.to(device) for part in x)  # noqa: E731
        return PixelPool(*(moved(getattr(self, name)) for name in self.__slots__))

    def draw(self, n: int, background_share: float, generator: torch.Generator) -> Tensor:
        """int64 [n] random usable pixels; ``background_share`` of them from the known background.

        As many of each size. In the mean the loss is then mip-NeRF's (section 4.1), where any pixel is as likely and
        weighs as much as the area it covers; but of 512 rays six would show an eighth of the size, and decide the step.
        """
        sizes = [pair for pair in zip(self.foreground, self.background) if len(pair[0]) + len(pair[1])]
        parts = []
        for k, (foreground, background) in enumerate(sizes):
            of_size = n * (k + 1) // len(sizes) - n * k // len(sizes)
            n_back = round(of_size * background_share) if len(background) else 0
            if not len(foreground):
                n_back = of_size
            for pool, count in ((foreground, of_size - n_back), (background, n_back)):
                if count:
                    parts.append(pool[torch.randint(len(pool), (count,), generator=generator, device=generator.device)])
        return torch.cat(parts)

    def batch(
        self, n: int, background_share: float, generator: torch.Generator, scene: Scene
    ) -> tuple[RayBatch, Tensor]:
        """Rays of pixels drawn at random, and their colours."""
        return self.rays(self.draw(n, background_share, generator), scene)

    def rays(self, pixels: Tensor, scene: Scene) -> tuple[RayBatch, Tensor]:
        """Rays of the pixels, and their colours float32 [n, 3] in 0..1."""
        frame = torch.searchsorted(self.pixel_offsets, pixels, right=True) - 1
        entry = self.direction_offsets[frame] + pixels - self.pixel_offsets[frame]
        directions = (self.rotations[frame] @ self.directions[entry].unsqueeze(-1)).squeeze(-1)
        near_far = self.near_far[frame]
        rays = RayBatch(
            self.centres[frame], directions, self.radii[entry].unsqueeze(-1), near_far[:, :1], near_far[:, 1:],
            self.frame_ids[frame],
        )  # fmt: skip
        return scene.clip_to_bounds(rays), self.colours[pixels].float() / 255

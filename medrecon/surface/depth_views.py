# SPDX-License-Identifier: Apache-2.0
"""Depth maps of a trained field, as the surface stage uses them: where the surface is, how surely, how it is turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from medrecon.progress import Progress
from medrecon.radiance.normals import normals_from_depth
from medrecon.radiance.scene import pixel_directions
from medrecon.types import Camera, Rigid3

if TYPE_CHECKING:
    from medrecon.radiance.renderer import Renderer
    from medrecon.radiance.scene import Scene

_CHUNK = 8192  # rays rendered at once


@dataclass(frozen=True, slots=True)
class DepthView:
    """What a camera sees of the field's surface. Lengths in field units.

    Attributes:
        frame_id: of the training picture.
        camera: intrinsics at the size of the maps.
        cam_from_field: its pose.
        depth: float32 [H, W], z-depth at which half of the light is gone; 0 where less than half ever is.
        spread: float32 [H, W], along z: standard deviation of where the light goes.
        opacity: float32 [H, W] in 0..1.
        cosine: float32 [H, W] between the ray and the surface's normal; 0 where there is no depth.
    """

    frame_id: int
    camera: Camera
    cam_from_field: Rigid3
    depth: np.ndarray
    spread: np.ndarray
    opacity: np.ndarray
    cosine: np.ndarray


def training_depths(
    renderer: "Renderer", scene: "Scene", device: str, progress: Progress, size: float = 1.0
) -> list[DepthView]:
    """Those of the training cameras, at ``size`` times the size of training."""
    progress.begin(len(scene.train_ids), "depth maps")
    out = []
    for frame_id in scene.train_ids:
        camera, pose = scene.cameras[frame_id], scene.cam_from_sfm[frame_id]
        w, h = (max(1, round(side * size)) for side in (camera.width_px, camera.height_px))
        camera = camera.scaled(w, h)
        rays = scene.camera_rays(camera, pose, scene.near_far[frame_id], frame_id)
        with torch.inference_mode():
            parts = [renderer.render_depth(rays[k : k + _CHUNK].to(device)) for k in range(0, len(rays), _CHUNK)]
        whole = lambda name: torch.cat([getattr(p, name).cpu() for p in parts]).view(h, w).numpy()  # noqa: E731, B023
        opacity = whole("opacity")
        median = whole("depth_median") if parts[0].depth_median is not None else whole("depth")
        depth = np.where(opacity > 0.5, median, 0).astype(np.float32)
        spread = whole("depth_std") if parts[0].depth_std is not None else np.zeros_like(depth)
        directions = pixel_directions(camera)[0].astype(np.float32)
        normals = normals_from_depth(depth, directions)
        cosine = -(normals * directions).sum(-1) / np.linalg.norm(directions, axis=-1)
        out.append(
            DepthView(
                frame_id,
                camera,
                scene.cam_from_field(pose),
                depth,
                spread.astype(np.float32),
                opacity.astype(np.float32),
                np.clip(cosine, 0, 1),
            )  # fmt: skip
        )
        progress.advance(1)
    return out

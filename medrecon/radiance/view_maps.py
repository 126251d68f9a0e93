# SPDX-License-Identifier: Apache-2.0
"""Median depth, its uncertainty and normals of one view, and the files they go into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medrecon.images import write_png
from medrecon.radiance.normals import normals_from_depth
from medrecon.radiance.renderer import Renderer
from medrecon.radiance.scene import Scene, pixel_directions
from medrecon.types import Camera, Rigid3
from medrecon.types.storage import read_npz, write_npz

HIT = 0.5  # opacity from which there is a depth


@dataclass(frozen=True, slots=True)
class ViewMaps:
    """What a renderer says about the geometry of one view.

    Attributes:
        median_sfm: float32 [H, W], z-depth at which half of the light is gone, in reconstruction units; 0 = nothing
            hit: less than half ever is.
        spread_sfm: float32 [H, W], depth uncertainty: standard deviation along z of where the light goes; 0 as above.
        normals: float32 [H, W, 3], unit normals of the median depth in the camera's axes (x right, y down, z forward),
            turned to the camera; 0 where there are none.
    """

    median_sfm: np.ndarray
    spread_sfm: np.ndarray
    normals: np.ndarray

    def save(self, folder: Path, name: str, step_sfm: float) -> Path:
        """Writes maps/NAME.npz with the three arrays, and PNGs for looking at; returns the npz, which is written last.

        median/NAME.png, spread/NAME.png: 16-bit, in steps of ``step_sfm``, clipped. normals/NAME.png: 8-bit RGB, x to
        the right, y upwards and z towards the viewer from 0 (-1) to 255 (+1), black where there are none: what faces
        the camera is (128, 128, 255), as in any normal map.
        """
        for kind, depth in (("median", self.median_sfm), ("spread", self.spread_sfm)):
            steps = np.minimum(np.rint(depth / step_sfm), 65535).astype(np.uint16)
            write_png(folder / kind / f"{name}.png", steps)
        write_png(folder / "normals" / f"{name}.png", self.normal_picture())
        path = folder / "maps" / f"{name}.npz"
        arrays = {"median_sfm": self.median_sfm, "spread_sfm": self.spread_sfm, "normals": self.normals}
        write_npz(path, arrays)
        return path

    def normal_picture(self) -> np.ndarray:
        """uint8 [H, W, 3], coded as ``save`` says."""
        rgb = np.rint(127.5 * (1 + self.normals * np.array([1, -1, -1], np.float32))).astype(np.uint8)
        rgb[(self.normals == 0).all(-1)] = 0
        return rgb

    @staticmethod
    def load(path: Path) -> "ViewMaps":
        """Raises InputError when the file is missing or holds something else."""
        from medrecon.errors import InputError

        z = read_npz(path)
        if not {"median_sfm", "spread_sfm", "normals"} <= z.keys():
            raise InputError(f"{path} does not hold the maps of a view", "rerun with --force render")
        return ViewMaps(z["median_sfm"], z["spread_sfm"], z["normals"])


@torch.inference_mode()
def render_maps(
    renderer: Renderer, scene: Scene, camera: Camera, cam_from_sfm: Rigid3, near_far: tuple[float, float],
    chunk: int = 8192, device: str = "cpu",
) -> ViewMaps | None:  # fmt: skip
    """Maps of any view; None where the renderer knows no median or no spread of a ray's depth."""
    rays = scene.camera_rays(camera, cam_from_sfm, near_far, -1)
    parts = [renderer.render_depth(rays[i : i + chunk].to(device)) for i in range(0, max(len(rays), 1), chunk)]
    if parts[0].depth_median is None or parts[0].depth_std is None:
        return None
    shape = (camera.height_px, camera.width_px)
    whole = lambda name: torch.cat([getattr(p, name).cpu() for p in parts]).view(shape).numpy()  # noqa: E731
    hit = whole("opacity") >= HIT
    in_sfm = lambda name: np.where(hit, whole(name) / scene.field_from_sfm.scale, 0).astype(np.float32)  # noqa: E731
    median = in_sfm("depth_median")
    return ViewMaps(median, in_sfm("depth_std"), normals_from_depth(median, pixel_directions(camera)[0]))

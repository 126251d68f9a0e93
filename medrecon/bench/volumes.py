# SPDX-License-Identifier: Apache-2.0
"""Pictures of a volume for the benchmark: views with exact depth from chosen directions, and slices."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medrecon.config import ComponentConfig
from medrecon.images import cv2
from medrecon.ingest.transfer_functions import PresetName, transfer_function
from medrecon.types import Camera, Rigid3, Volume

FOV_DEG = 40.0
# Distance of the camera: 1 would just show the whole object; nearer fills the picture.
RADIUS_FACTOR = 0.85
HU_WINDOWS = {"soft tissue window": (40.0, 400.0), "lung window": (-600.0, 1500.0), "bone window": (400.0, 1800.0)}


class VolumeChoice(ComponentConfig):
    """A volume to render."""

    path: Path = Field(Path("builtin:chest-ct"), description="NIfTI, NRRD or DICOM; builtin:chest-ct ships with us")
    transfer: PresetName = Field("bone", description="what is visible")
    crop: Literal["none", "body", "brain"] = Field("none", description="body: no table; brain: no skull")

    @property
    def subject(self) -> str:
        """Name in the tables. No file names: they may hold patient names."""
        name = str(self.path)
        return (name.removeprefix("builtin:") if name.startswith("builtin:") else "volume") + f" {self.transfer}"


def load(choice: VolumeChoice) -> Volume:
    """Raises InputError for a volume that cannot be used."""
    from medrecon.assets.demo import builtin_volume
    from medrecon.ingest import body
    from medrecon.ingest.volume import load_volume

    name = str(choice.path)
    volume = load_volume(builtin_volume(name.removeprefix("builtin:")) if name.startswith("builtin:") else choice.path)
    if choice.crop == "body":
        return body.remove_table(volume)
    return body.remove_skull(volume) if choice.crop == "brain" else volume


def is_hounsfield(volume: Volume) -> bool:
    return float(volume.data.min()) < -500


class Studio:
    """Takes pictures of one volume under one transfer function.

    Args:
        size_px: side of the square picture.
        supersample: rays per pixel along each axis.
    """

    def __init__(self, volume: Volume, transfer: str, size_px: int, supersample: int):
        from medrecon.ingest.view_depth import DepthTracer
        from medrecon.ingest.views import visible_sphere
        from medrecon.ingest.volume import with_border
        from medrecon.ingest.volume_renderer import VolumeRenderer

        function = transfer_function(transfer).on(volume)
        if function.alpha(volume.data.min()) < 1e-3:
            volume = with_border(volume, volume.data.min())
        focal = size_px / 2 / np.tan(np.radians(FOV_DEG) / 2)
        self.camera = Camera("PINHOLE", size_px, size_px, (focal, focal, size_px / 2, size_px / 2)).validate()
        self.center_mm, self.radius_mm = visible_sphere(volume, function)
        self._renderer = VolumeRenderer(volume, function, self.camera, "fixed", supersample)
        self._tracer = DepthTracer(volume, function)

    def pose(self, direction: np.ndarray, radius_factor: float = RADIUS_FACTOR) -> Rigid3:
        """``cam_from_world`` of a camera that stands in ``direction`` (RAS, unit) and looks at the middle."""
        from medrecon.ingest.view_paths import look_at

        distance = radius_factor * self.radius_mm / np.sin(np.radians(FOV_DEG) / 2)
        return look_at(self.center_mm + distance * direction, self.center_mm, np.array([0.0, 0.0, 1.0]))

    def image(self, pose: Rigid3) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return np.clip(np.rint(self._renderer.render(pose)[..., :3] * 255), 0, 255).astype(np.uint8)

    def depth(self, pose: Rigid3) -> np.ndarray:
        """float32 [H, W], mm, 0 where nothing is."""
        return self._tracer.depth(self.camera, pose)


def random_direction(random: np.random.Generator) -> np.ndarray:
    """float64 [3] unit: any azimuth, elevation from -10 to 40 degrees (towards superior)."""
    azimuth, elevation = random.uniform(0, 2 * np.pi), np.radians(random.uniform(-10, 40))
    return np.array([-np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])


def turned(direction: np.ndarray, angle_deg: float, random: np.random.Generator) -> np.ndarray:
    """float64 [3] unit: exactly ``angle_deg`` away from ``direction``, mostly sideways."""
    side = np.cross([0.0, 0.0, 1.0], direction)
    side /= np.linalg.norm(side)
    slope = np.radians(random.uniform(-30, 30))
    along = random.choice([-1.0, 1.0]) * np.cos(slope) * side + np.sin(slope) * np.cross(direction, side)
    angle = np.radians(angle_deg)
    return np.cos(angle) * direction + np.sin(angle) * along


def axial_slice(volume: Volume, height: float, window: tuple[float, float] | None, size_px: int) -> np.ndarray:
    """uint8 [H, W, 3]: the axial slice at ``height`` (0 inferior, 1 superior), the longer side ``size_px``.

    Args:
        window: (level, width); None takes the 1st to the 99.5th percentile of the volume (MR).
    """
    from medrecon.ingest.volume import canonical

    data = canonical(volume).data
    plane = data[:, ::-1, round(height * (data.shape[2] - 1))].T.astype(np.float32)  # anterior up
    if window is None:
        low, high = np.percentile(data[::2, ::2, ::2], (1, 99.5))
    else:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    grey = np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * 255
    return np.repeat(fitted(np.rint(grey).astype(np.uint8), size_px)[..., None], 3, 2)


def fitted(image: np.ndarray, size_px: int) -> np.ndarray:
    """The picture resized so that its longer side is ``size_px``."""
    f = size_px / max(image.shape[:2])
    size = max(1, round(image.shape[1] * f)), max(1, round(image.shape[0] * f))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if f < 1 else cv2.INTER_CUBIC)

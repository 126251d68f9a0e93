# SPDX-License-Identifier: Apache-2.0
"""What the image-folder, video and DICOM sources share: options, which frames to take, writing them as 8-bit PNG."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field, field_validator, model_validator

from medrecon.config.base import ComponentConfig
from medrecon.errors import InputError, StageError
from medrecon.images import write_png
from medrecon.ingest.degradation import Degradation
from medrecon.types import CAMERA_MODELS, Camera, Frame, Rigid3


class KnownCamera(ComponentConfig):
    """Intrinsics known beforehand, for the pictures as stored (before ``crop`` and ``max_size_px``)."""

    model: str = Field("OPENCV", description=f"camera model: {', '.join(CAMERA_MODELS)}")
    params: tuple[float, ...] = Field(description="the model's parameters in COLMAP's order, lengths in pixels")

    @field_validator("model")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in CAMERA_MODELS:
            raise ValueError(f"camera model must be one of {', '.join(CAMERA_MODELS)}")
        return value

    @model_validator(mode="after")
    def _complete(self) -> "KnownCamera":
        names = CAMERA_MODELS[self.model]
        if len(self.params) != len(names):
            raise ValueError(f"{self.model} takes {len(names)} parameters: {', '.join(names)}")
        return self


class PictureSourceConfig(ComponentConfig):
    """Options of every source that takes pictures as they are."""

    path: Path = Field(description="file or folder to read")
    stride: int = Field(1, ge=1, description="take every n-th frame")
    max_frames: int | None = Field(None, ge=1, description="take at most this many frames, evenly spaced")
    max_size_px: int | None = Field(None, ge=16, description="shrink pictures whose longer side exceeds this")
    crop: tuple[int, int, int, int] | None = Field(
        None, description="[x, y, width, height] in px of the stored picture to keep, e.g. to cut burned-in text off"
    )
    degrade: Degradation | None = Field(None, description="make the pictures harder, to see what a method stands")
    camera: KnownCamera | None = Field(None, description="intrinsics known from a calibration; kept fixed later on")

    @field_validator("crop")
    @classmethod
    def _positive(cls, value: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if value is not None and (min(value[:2]) < 0 or min(value[2:]) < 1):
            raise ValueError("crop is [x, y, width, height] with x, y >= 0 and width, height >= 1")
        return value


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Silences OpenCV, which prints names of files to stderr; names may identify a patient."""
    logging = getattr(cv2.utils, "logging", None)
    if logging is None:
        yield
        return
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)


def pick(candidates: Sequence[int], stride: int, max_frames: int | None) -> list[int]:
    """Every ``stride``-th candidate, thinned evenly (ends kept) to at most ``max_frames``."""
    chosen = list(candidates)[::stride]
    if max_frames is not None and len(chosen) > max_frames:
        at = np.rint(np.linspace(0, len(chosen) - 1, max_frames)).astype(int)
        chosen = [chosen[i] for i in at]
    return chosen


def to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map low..high linearly to 0..255 (clipped, rounded half up). uint8 of the same shape."""
    if np.issubdtype(values.dtype, np.floating):
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    grey = (values.astype(np.float64) - low) * 255.0 / (high - low if high > low else np.inf)
    return np.floor(np.clip(grey, 0, 255) + 0.5).astype(np.uint8)


class PictureWriter:
    """Crops, shrinks and writes pictures below ``out_dir``; what a killed run already wrote is kept.

    Args:
        out_dir: the stage's folder; pictures go to images/{frame_id:06d}.png, masks to user_masks/.
        config: what to crop and shrink.
    """

    def __init__(self, out_dir: Path, config: PictureSourceConfig):
        self.images, self.masks, self.config = Path(out_dir) / "images", Path(out_dir) / "user_masks", config
        self.sizes: set[tuple[int, int]] = set()
        try:
            self.images.mkdir(parents=True, exist_ok=True)
            for leftover in self.images.glob(".*.partial"):
                leftover.unlink()
        except OSError as e:
            raise _cannot_write(e) from e

    def write(
        self,
        frame_id: int,
        image: np.ndarray,
        *,
        time_s: float | None = None,
        mask: np.ndarray | None = None,
        camera: Camera | None = None,
        cam_from_world_mm: Rigid3 | None = None,
        pixel_spacing_mm: tuple[float, float] | None = None,
    ) -> Frame:
        """Write one picture.

        Args:
            image: uint8 [H, W] or [H, W, 3] RGB, as stored.
            mask: bool [H, W] of the same size, True = use.
            camera: for the picture as stored; ``config.camera`` wins over it.
            pixel_spacing_mm: (row, column) spacing of the picture as stored.

        Raises:
            InputError: the crop leaves the picture.  StageError: the disk is full or may not be written to.
        """
        height, width = image.shape[:2]
        if self.config.camera is not None:
            camera = Camera(self.config.camera.model, width, height, self.config.camera.params)
        x, y, w, h = self.config.crop or (0, 0, width, height)
        if x + w > width or y + h > height:
            raise InputError(
                f"crop {list(self.config.crop)} leaves frame {frame_id}, which is {width}x{height} px",
                "give crop as [x, y, width, height] within the picture",
            )
        shrink = min(1.0, (self.config.max_size_px or max(w, h)) / max(w, h))
        out_w, out_h = max(1, round(w * shrink)), max(1, round(h * shrink))
        image = _fit(image, (x, y, w, h), (out_w, out_h), cv2.INTER_AREA)
        if self.config.degrade is not None:
            image = self.config.degrade.apply(image, frame_id)
        name = f"{frame_id:06d}"
        path = self.images / f"{name}.png"
        _write(path, image)
        mask_path = None
        if mask is not None:
            mask_path = self.masks / f"{name}.png"
            _write(mask_path, _fit(mask.astype(np.uint8) * 255, (x, y, w, h), (out_w, out_h), cv2.INTER_NEAREST))
        if pixel_spacing_mm is not None:
            pixel_spacing_mm = (pixel_spacing_mm[0] * h / out_h, pixel_spacing_mm[1] * w / out_w)
        if camera is not None:
            camera = _cropped(camera, x, y, w, h).scaled(out_w, out_h).validate()
        self.sizes.add((out_w, out_h))
        return Frame(frame_id, name, path, out_w, out_h, mask_path, time_s, camera, cam_from_world_mm, pixel_spacing_mm)

    def notes(self) -> list[str]:
        """Facts about all that was written."""
        out = []
        if len(self.sizes) > 1:
            shown = ", ".join(f"{w}x{h}" for w, h in sorted(self.sizes)[:4])
            out.append(f"pictures differ in size ({shown}{', ...' if len(self.sizes) > 4 else ''} px)")
        if self.config.crop:
            out.append(f"cropped to {list(self.config.crop)} px")
        if self.config.degrade is not None:
            out.append("degraded on purpose")
        if self.config.max_size_px:
            out.append(f"longer side at most {self.config.max_size_px} px")
        return out


def _fit(image: np.ndarray, crop: tuple[int, int, int, int], size: tuple[int, int], how: int) -> np.ndarray:
    x, y, w, h = crop
    image = np.ascontiguousarray(image[y : y + h, x : x + w])
    return image if size == (w, h) else cv2.resize(image, size, interpolation=how)


def _cropped(camera: Camera, x: int, y: int, width: int, height: int) -> Camera:
    shift = {"cx": x, "cy": y}
    params = tuple(p - shift.get(n, 0) for n, p in zip(CAMERA_MODELS[camera.model], camera.params))
    return Camera(camera.model, width, height, params)


def _write(path: Path, image: np.ndarray) -> None:
    if path.exists():  # complete, since it is renamed into place, and made with the same settings
        return
    try:
        write_png(path, image)
    except OSError as e:
        raise _cannot_write(e) from e


def _cannot_write(error: OSError) -> StageError:
    return StageError(
        f"a picture cannot be written to the run folder: {error.strerror or 'the disk may be full'}",
        "free some space or choose another folder, then run the same command again: it resumes",
    )

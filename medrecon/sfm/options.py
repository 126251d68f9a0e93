# SPDX-License-Identifier: Apache-2.0
"""Options that every built-in mapper shares."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medrecon.config.base import ComponentConfig
from medrecon.types.camera import CAMERA_MODELS, Camera

CameraModel = Literal["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"]


class MapperConfig(ComponentConfig):
    """Cameras, thresholds and resources."""

    camera_model: CameraModel = Field(
        "SIMPLE_RADIAL", description="COLMAP camera model for frames that bring no calibration of their own"
    )
    share_intrinsics: bool = Field(
        True, description="one camera for all frames of the same size; false estimates one camera per frame"
    )
    intrinsics: tuple[float, ...] | None = Field(
        None, description="known parameters of camera_model in COLMAP's order, in pixels of the images as used"
    )
    focal_px: float | None = Field(
        None, gt=0, description="known focal length in pixels (centre and distortion taken as ideal)"
    )
    refine_intrinsics: Literal["auto", "true", "false"] = Field(
        "auto", description="auto: known intrinsics stay fixed, unknown ones are refined; true: all; false: none"
    )
    focal_prior: Literal["auto", "size"] = Field(
        "auto", description="first guess of an unknown focal length; auto: from the matches; size: 1.2 x longer side"
    )
    min_num_matches: int = Field(15, ge=5, description="verified pairs with fewer inlier matches are not used")
    min_model_size: int = Field(3, ge=2, description="models with fewer frames are thrown away")
    refine_tracks: bool = Field(
        True,
        description="at the end, keypoints are shifted to where the pictures of a point agree to a fraction of a pixel "
        "and everything is adjusted once more; false keeps the detector's positions",
    )
    threads: int = Field(1, ge=1, description="more than one is faster on large scenes but not bitwise repeatable")

    @model_validator(mode="before")
    @classmethod
    def _yaml_booleans(cls, data):
        """YAML turns a bare true or false into a boolean before we see it."""
        if isinstance(data, dict) and isinstance(data.get("refine_intrinsics"), bool):
            data = {**data, "refine_intrinsics": str(data["refine_intrinsics"]).lower()}
        return data

    @model_validator(mode="after")
    def _known_intrinsics_fit(self) -> "MapperConfig":
        names = CAMERA_MODELS[self.camera_model]
        if self.intrinsics is not None and self.focal_px is not None:
            raise ValueError("give intrinsics or focal_px, not both")
        if self.intrinsics is not None and len(self.intrinsics) != len(names):
            raise ValueError(f"intrinsics of {self.camera_model} are {len(names)} numbers: {', '.join(names)}")
        return self

    def known_camera(self, width_px: int, height_px: int) -> Camera | None:
        """The camera these options fix for images of that size, or None."""
        if self.intrinsics is not None:
            return Camera(self.camera_model, width_px, height_px, self.intrinsics)
        if self.focal_px is not None:
            return ideal_camera(self.camera_model, width_px, height_px, self.focal_px)
        return None


def ideal_camera(model: str, width_px: int, height_px: int, focal_px: float) -> Camera:
    """Camera with its principal point in the exact centre and no distortion."""
    value = {"f": focal_px, "fx": focal_px, "fy": focal_px, "cx": width_px / 2, "cy": height_px / 2}
    return Camera(model, width_px, height_px, tuple(float(value.get(n, 0.0)) for n in CAMERA_MODELS[model]))

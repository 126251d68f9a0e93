# SPDX-License-Identifier: Apache-2.0
"""Known poses from a transforms.json as nerfstudio and instant-ngp write it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from medrecon.errors import InputError
from medrecon.types import Camera, Rigid3

# The file's cameras are OpenGL's (x right, y up, z backward); ours look along +z with y down.
_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True, slots=True)
class KnownPoses:
    """Poses and intrinsics by the stem of a picture's file name.

    Attributes:
        poses: cam_from_world, translation in mm.
        intrinsics: the entry's own keys over the file's; lengths in pixels of the stored picture.
    """

    poses: dict[str, Rigid3]
    intrinsics: dict[str, dict]

    def of(self, picture: Path, width_px: int, height_px: int) -> dict:
        """Keyword arguments for PictureWriter.write; empty when the file does not name the picture."""
        if picture.stem not in self.poses:
            return {}
        camera = _camera(self.intrinsics[picture.stem], width_px, height_px)
        return {"cam_from_world_mm": self.poses[picture.stem], "camera": camera}


def read_poses(path: Path, unit_mm: float) -> KnownPoses:
    """Args: unit_mm: millimetres per unit of the file.  Raises InputError."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        frames = data["frames"]
        shared = {k: v for k, v in data.items() if k != "frames"}
        poses, intrinsics = {}, {}
        for number, frame in enumerate(frames, 1):
            stem = PurePosixPath(str(frame["file_path"]).replace("\\", "/")).stem
            if stem in poses:
                raise InputError(f"poses_path: entry {number} names a picture for the second time", "keep one of them")
            poses[stem] = _pose(np.array(frame["transform_matrix"], np.float64), unit_mm, number)
            intrinsics[stem] = {**shared, **frame}
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(
            f"poses_path cannot be read: {getattr(e, 'strerror', None) or 'not text'}", "check the path"
        ) from None
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"poses_path is not a transforms.json: {type(e).__name__} at its JSON or its keys",
            "it needs frames: [{file_path, transform_matrix (4x4)}, ...]",
        ) from None
    return KnownPoses(poses, intrinsics)


def _pose(world_from_gl: np.ndarray, unit_mm: float, number: int) -> Rigid3:
    where = f"poses_path: transform_matrix of entry {number}"
    if world_from_gl.shape not in ((4, 4), (3, 4)) or not np.isfinite(world_from_gl).all():
        raise InputError(f"{where} is not a finite 4x4 matrix", "write it as four rows of four numbers")
    rotation = world_from_gl[:3, :3]
    u, singular, vt = np.linalg.svd(rotation)
    if np.abs(singular - 1).max() > 1e-3 or np.linalg.det(rotation) < 0:
        raise InputError(f"{where} is not a rotation and a translation", "remove scale, shear and mirroring from it")
    world_from_cam = Rigid3(u @ vt @ _OPENGL_FROM_OPENCV, world_from_gl[:3, 3] * unit_mm)
    return world_from_cam.inverse().validate()


def _camera(keys: dict, width_px: int, height_px: int) -> Camera | None:
    """fl_x, fl_y, cx, cy, k1..k4, p1, p2 or camera_angle_x; None when the file states no focal length."""
    try:
        w, h = int(keys.get("w", width_px)), int(keys.get("h", height_px))
        if (w, h) != (width_px, height_px):
            raise InputError(
                f"poses_path states pictures of {w}x{h} px, they are {width_px}x{height_px}", "use the pictures it fits"
            )
        if "fl_x" in keys:
            fx = float(keys["fl_x"])
            fy = float(keys.get("fl_y", fx))
        elif "camera_angle_x" in keys:
            fx = fy = 0.5 * w / math.tan(0.5 * float(keys["camera_angle_x"]))
        else:
            return None
        pinhole = (fx, fy, float(keys.get("cx", w / 2)), float(keys.get("cy", h / 2)))
        if str(keys.get("camera_model", "")) == "OPENCV_FISHEYE":
            d = tuple(float(keys.get(k, 0)) for k in ("k1", "k2", "k3", "k4"))
            return Camera("OPENCV_FISHEYE", w, h, pinhole + d).validate()
        if float(keys.get("k3", 0)) or float(keys.get("k4", 0)):
            raise InputError("poses_path states k3 or k4 without a fisheye model", "undistort the pictures first")
        d = tuple(float(keys.get(k, 0)) for k in ("k1", "k2", "p1", "p2"))
        return Camera("OPENCV", w, h, pinhole + d).validate() if any(d) else Camera("PINHOLE", w, h, pinhole).validate()
    except (TypeError, ValueError, ZeroDivisionError):
        raise InputError("poses_path holds intrinsics that are not numbers", "check fl_x, fl_y, cx, cy, w, h") from None

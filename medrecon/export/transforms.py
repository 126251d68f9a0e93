# SPDX-License-Identifier: Apache-2.0
"""transforms.json, as nerfstudio and instant-ngp read it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medrecon.config.base import ComponentConfig
from medrecon.export.naming import stamped
from medrecon.types import Camera
from medrecon.types.storage import write_json

if TYPE_CHECKING:
    from medrecon.runfolder import RunFolder

# OpenCV's camera axes (x right, y down, z forward) to OpenGL's (x right, y up, z back).
_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


class TransformsExporterConfig(ComponentConfig):
    pass


class TransformsExporter:
    """Camera-to-world matrices with OpenGL camera axes; lengths in millimetres when the scale is known.

    Paths are relative to the file. ``unit`` ("mm" or "unknown") is our own key; readers ignore what they do not know.
    """

    def __init__(self, config: TransformsExporterConfig):
        self.config = config

    def export(self, run: "RunFolder", out_dir: Path) -> list[Path]:
        """Raises InputError when the run has no sparse model."""
        sparse, frames = run.posed, run.frames.by_id()
        path = Path(out_dir) / stamped("transforms", ".json", sparse.scale)
        entries = []
        for i in sparse.registered_ids:
            if i not in frames:
                continue
            pose = sparse.scale.metric_from_sfm.transform_pose(sparse.cam_from_world[i])
            entry = {
                "file_path": _relative(frames[i].image_path, path),
                "transform_matrix": (pose.inverse().matrix() @ _OPENGL).tolist(),
                **_intrinsics(sparse.cameras[i]),
            }
            if frames[i].mask_path:
                entry["mask_path"] = _relative(frames[i].mask_path, path)
            entries.append(entry)
        model = "OPENCV_FISHEYE" if any(e["camera_model"] == "OPENCV_FISHEYE" for e in entries) else "OPENCV"
        write_json(
            path, {"camera_model": model, "unit": sparse.scale.unit, "scale": sparse.scale.stamp, "frames": entries}
        )
        return [path]


def _relative(target: Path, file: Path) -> str:
    return Path(os.path.relpath(target, file.parent)).as_posix()


def _intrinsics(camera: Camera) -> dict:
    (fx, fy), (cx, cy) = camera.focal_px, camera.principal_px
    fisheye = camera.model == "OPENCV_FISHEYE"
    names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2")
    values = tuple(camera.distortion) + (0.0,) * 4
    return {
        "camera_model": "OPENCV_FISHEYE" if fisheye else "OPENCV",
        "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": camera.width_px, "h": camera.height_px,
        **{k: float(v) for k, v in zip(names, values)},
    }  # fmt: skip

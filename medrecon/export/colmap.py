# SPDX-License-Identifier: Apache-2.0
"""The sparse model in COLMAP's text format (cameras.txt, images.txt, points3D.txt)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from medrecon.config.base import ComponentConfig
from medrecon.export.naming import stamped, unit_line
from medrecon.types.storage import write_bytes_atomic

if TYPE_CHECKING:
    from medrecon.runfolder import RunFolder
    from medrecon.types import SparseModel


class ColmapExporterConfig(ComponentConfig):
    pass


class ColmapExporter:
    """A folder COLMAP, nerfstudio and gsplat read; in millimetres when the scale is known.

    COLMAP counts images and points from 1: image id = frame id + 1, point id = point + 1. Keypoints and tracks are
    written where the run still holds its features; frames without them keep their poses.
    """

    def __init__(self, config: ColmapExporterConfig):
        self.config = config

    def export(self, run: "RunFolder", out_dir: Path) -> list[Path]:
        """Raises InputError when the run has no sparse model."""
        sparse, names = run.sparse, {f.frame_id: f.image_path.name for f in run.frames.frames}
        folder = Path(out_dir) / stamped("colmap", "", sparse.scale)
        keypoints = _keypoints(run, sparse)
        camera_ids, cameras = _cameras(sparse)
        head = f"# made by medrecon, {unit_line(sparse.scale)}\n"
        texts = {
            "cameras.txt": cameras,
            "images.txt": _images(sparse, names, camera_ids, keypoints),
            "points3D.txt": _points(sparse, keypoints),
        }
        files = []
        for name, lines in texts.items():
            write_bytes_atomic(folder / name, (head + "".join(f"{line}\n" for line in lines)).encode())
            files.append(folder / name)
        return files


def _cameras(sparse: "SparseModel") -> tuple[dict[int, int], list[str]]:
    """Camera id by frame id (equal intrinsics share one), and the lines."""
    known: dict = {}
    ids = {i: known.setdefault(sparse.cameras[i], len(known) + 1) for i in sparse.registered_ids}
    lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    for camera, n in known.items():
        params = " ".join(repr(float(p)) for p in camera.params)
        lines.append(f"{n} {camera.model} {camera.width_px} {camera.height_px} {params}")
    return ids, lines


def _keypoints(run: "RunFolder", sparse: "SparseModel") -> dict[int, np.ndarray]:
    """float32 [N, 2] by frame id, refined where they were; empty where the features are gone."""
    features = run.features if run.has("features") else {}
    out = {i: features[i].xy if i in features else np.zeros((0, 2), np.float32) for i in sparse.registered_ids}
    if sparse.track_xy is not None:
        for i, xy in out.items():
            here = (sparse.track_frame_ids == i) & (sparse.track_keypoint_idx < len(xy))
            xy[sparse.track_keypoint_idx[here]] = sparse.track_xy[here]
    return out


def _observations(sparse: "SparseModel", keypoints: dict[int, np.ndarray]) -> list[list[tuple[int, int]]]:
    """(frame id, keypoint) of each point, as far as the keypoints are there."""
    out = []
    for p in range(len(sparse.points)):
        span = slice(sparse.track_offsets[p], sparse.track_offsets[p + 1])
        pairs = zip(sparse.track_frame_ids[span].tolist(), sparse.track_keypoint_idx[span].tolist())
        out.append([(i, k) for i, k in pairs if i in keypoints and k < len(keypoints[i])])
    return out


def _images(
    sparse: "SparseModel", names: dict[int, str], camera_ids: dict[int, int], keypoints: dict[int, np.ndarray]
) -> list[str]:
    point_of: dict[tuple[int, int], int] = {}
    for p, observations in enumerate(_observations(sparse, keypoints)):
        point_of.update(dict.fromkeys(observations, p + 1))
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME, then POINTS2D[] as (X, Y, POINT3D_ID)"]
    for i in sparse.registered_ids:
        pose = sparse.scale.metric_from_sfm.transform_pose(sparse.cam_from_world[i])
        x, y, z, w = Rotation.from_matrix(pose.rotation).as_quat()
        numbers = " ".join(repr(float(v)) for v in (w, x, y, z, *pose.translation))
        lines.append(f"{i + 1} {numbers} {camera_ids[i]} {names.get(i, f'{i:06d}.png')}")
        lines.append(" ".join(f"{u:.4f} {v:.4f} {point_of.get((i, k), -1)}" for k, (u, v) in enumerate(keypoints[i])))
    return lines


def _points(sparse: "SparseModel", keypoints: dict[int, np.ndarray]) -> list[str]:
    lines = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"]
    xyz = sparse.scale.metric_from_sfm.apply(sparse.points)
    for p, observations in enumerate(_observations(sparse, keypoints)):
        where = " ".join(repr(float(v)) for v in xyz[p])
        track = " ".join(f"{i + 1} {k}" for i, k in observations)
        colour = " ".join(str(int(c)) for c in sparse.colors[p])
        lines.append(f"{p + 1} {where} {colour} {float(sparse.errors_px[p])!r} {track}".rstrip())
    return lines

# SPDX-License-Identifier: Apache-2.0
"""The sparse model: cameras, poses, points, what did not register and why, and the funnel that led there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medrecon.errors import InputError
from medrecon.types.camera import Camera
from medrecon.types.scale import Scale
from medrecon.types.storage import read_json, read_npz, write_json, write_npz
from medrecon.types.transforms import Rigid3


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """One step of the way from frames to poses.

    Attributes:
        name: e.g. "keypoints per frame".
        value: the figure at this step.
        unit: what the figure counts.
        ok: False where the step is below what the next one needs.
        advice: what to try when it is not ok, else "".
    """

    name: str
    value: float
    unit: str
    ok: bool = True
    advice: str = ""


@dataclass(frozen=True, slots=True)
class SparseModel:
    """Result of structure from motion, in its own arbitrary frame and unit until ``scale`` says otherwise.

    Attributes:
        cameras: intrinsics by frame_id (shared intrinsics are repeated).
        cam_from_world: pose by frame_id, registered frames only.
        points: float64 [P, 3] world coordinates.
        colors: uint8 [P, 3] RGB.
        errors_px: float64 [P] mean reprojection error of each point.
        track_frame_ids, track_keypoint_idx: int64/int32 [T] observations of all points back to back.
        track_offsets: int64 [P + 1]; point p is seen by observations offsets[p]:offsets[p+1].
        track_xy: float64 [T, 2] pixels where each observation was seen, if refined; None: at its keypoint.
        unregistered: reason by frame_id for every frame without a pose.
        other_models: number of registered frames of each smaller model that was discarded.
        funnel: steps from frames to reprojection error.
        attempts: the retry ladder as it was climbed: settings tried and what each gave, in words.
        scale: metric scale.
    """

    cameras: dict[int, Camera]
    cam_from_world: dict[int, Rigid3]
    points: np.ndarray
    colors: np.ndarray
    errors_px: np.ndarray
    track_frame_ids: np.ndarray
    track_keypoint_idx: np.ndarray
    track_offsets: np.ndarray
    unregistered: dict[int, str] = field(default_factory=dict)
    other_models: tuple[int, ...] = ()
    funnel: tuple[FunnelStep, ...] = ()
    attempts: tuple[str, ...] = ()
    scale: Scale = field(default_factory=Scale)
    track_xy: np.ndarray | None = None

    @property
    def registered_ids(self) -> list[int]:
        return sorted(self.cam_from_world)

    @property
    def mean_reprojection_px(self) -> float:
        """Mean over observations (NaN without points)."""
        lengths = np.diff(self.track_offsets)
        return float((self.errors_px * lengths).sum() / lengths.sum()) if lengths.sum() else float("nan")

    @property
    def mean_track_length(self) -> float:
        return float(np.diff(self.track_offsets).mean()) if len(self.points) else float("nan")

    def validate(self) -> "SparseModel":
        p = len(self.points)
        if self.points.shape != (p, 3) or not np.isfinite(self.points).all():
            raise InputError("sparse model: points must be finite [P, 3]")
        if self.colors.shape != (p, 3) or self.errors_px.shape != (p,) or self.track_offsets.shape != (p + 1,):
            raise InputError("sparse model: colours, errors and tracks must match the points")
        if self.track_xy is not None and self.track_xy.shape != (len(self.track_frame_ids), 2):
            raise InputError("sparse model: every observation needs its place")
        if set(self.cameras) < set(self.cam_from_world):
            raise InputError("sparse model: a registered frame has no camera")
        if set(self.unregistered) & set(self.cam_from_world):
            raise InputError("sparse model: a frame is both registered and unregistered")
        for pose in self.cam_from_world.values():
            pose.validate()
        self.scale.validate()
        return self

    def save(self, folder: Path) -> None:
        """Writes ``model.json`` and ``model.npz`` into the folder."""
        write_npz(
            folder / "model.npz",
            {
                "points": self.points,
                "colors": self.colors,
                "errors_px": self.errors_px,
                "track_frame_ids": self.track_frame_ids,
                "track_keypoint_idx": self.track_keypoint_idx,
                "track_offsets": self.track_offsets,
                "pose_ids": np.array(self.registered_ids, np.int64),
                "poses": np.array([self.cam_from_world[i].matrix() for i in self.registered_ids]).reshape(-1, 4, 4),
                **({} if self.track_xy is None else {"track_xy": self.track_xy}),
            },
        )
        write_json(
            folder / "model.json",
            {
                "schema": 1,
                "cameras": {str(k): c.to_dict() for k, c in self.cameras.items()},
                "unregistered": {str(k): r for k, r in self.unregistered.items()},
                "other_models": list(self.other_models),
                "funnel": [[s.name, s.value, s.unit, s.ok, s.advice] for s in self.funnel],
                "attempts": list(self.attempts),
                "scale": self.scale.to_dict(),
            },
        )

    @staticmethod
    def load(folder: Path) -> "SparseModel":
        d, z = read_json(folder / "model.json"), read_npz(folder / "model.npz")
        return SparseModel(
            {int(k): Camera.from_dict(c) for k, c in d["cameras"].items()},
            {int(i): Rigid3.from_matrix(m) for i, m in zip(z["pose_ids"], z["poses"])},
            z["points"],
            z["colors"],
            z["errors_px"],
            z["track_frame_ids"],
            z["track_keypoint_idx"],
            z["track_offsets"],
            {int(k): r for k, r in d["unregistered"].items()},
            tuple(d["other_models"]),
            tuple(FunnelStep(*s) for s in d["funnel"]),
            tuple(d["attempts"]),
            Scale.from_dict(d["scale"]),
            z.get("track_xy"),
        ).validate()

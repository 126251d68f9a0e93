# SPDX-License-Identifier: Apache-2.0
"""Metric scale of a reconstruction: from known poses, a known distance or a known camera baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import AliasChoices, ConfigDict, Field, model_validator

from medrecon.config.base import ComponentConfig
from medrecon.errors import InputError, StageError
from medrecon.sfm.alignment import align_trajectories
from medrecon.types import FrameSet, Rigid3, Scale, Sim3, SparseModel, Truth

_OUTLIER = 3.0  # robust standard deviations beyond which a known pose is taken for a misregistration


class PixelObservation(ComponentConfig):
    """Where a point is seen."""

    frame_id: int = Field(..., description="frame in which the point is seen")
    x_px: float = Field(..., description="column, pixels; the centre of the first pixel is 0.5")
    y_px: float = Field(..., description="row, pixels")


class ScaleConfig(ComponentConfig):
    """Where millimetres come from.

    ``from`` (in Python also ``source``) is one of: none; known-poses (a tracker or robot, poses that the frames bring);
    truth-poses (the exact poses of rendered views, standing in for a tracker: the report says so); known-distance
    (two points seen in two frames each); camera-baseline (the distance between camera positions).
    """

    model_config = ConfigDict(populate_by_name=True)

    source: Literal["none", "known-poses", "truth-poses", "known-distance", "camera-baseline"] = Field(
        "none", alias="from", validation_alias=AliasChoices("from", "source"), description="where the scale comes from"
    )
    distance_mm: float | None = Field(
        None, gt=0, description="the known length: between the two points, or between the cameras of each pair"
    )
    distance_sigma_mm: float = Field(0.0, ge=0, description="one-sigma uncertainty of distance_mm")
    point_a: tuple[PixelObservation, ...] = Field((), description="first point, in at least two frames")
    point_b: tuple[PixelObservation, ...] = Field((), description="second point, in at least two frames")
    pixel_sigma_px: float = Field(1.0, gt=0, description="one-sigma uncertainty of the pixels of known-distance")
    pairs: Literal["consecutive"] | tuple[tuple[int, int], ...] = Field(
        "consecutive", description="frame id pairs whose cameras are distance_mm apart; consecutive: each and the next"
    )

    @model_validator(mode="after")
    def _complete(self) -> "ScaleConfig":
        if self.source in ("known-distance", "camera-baseline") and self.distance_mm is None:
            raise ValueError(f"scale from {self.source} needs distance_mm")
        if self.source == "known-distance":
            for name in ("point_a", "point_b"):
                if len({o.frame_id for o in getattr(self, name)}) < 2:
                    raise ValueError(f"scale from known-distance needs {name} in at least two frames")
        return self


def find_scale(frames: FrameSet, model: SparseModel, config: ScaleConfig) -> Scale:
    """Scale of ``model`` after ``config``.

    With poses the whole similarity is found, so that ``metric_from_sfm`` leads into the tracker's world; a length
    fixes only the scale factor.

    Raises:
        InputError: what the configuration names is not there (poses, frames, truth).
        StageError: it is there but does not determine a scale.
    """
    if config.source == "none":
        return Scale()
    if config.source == "known-poses":
        poses = {f.frame_id: f.cam_from_world_mm for f in frames.frames if f.cam_from_world_mm is not None}
        if not poses:
            raise InputError("scale from known-poses: no frame brings a pose", "give poses, or scale: {from: none}")
        return scale_from_poses(model, poses, "known camera poses")
    if config.source == "truth-poses":
        if frames.truth_path is None:
            raise InputError("scale from truth-poses: these pictures have no truth", "use another source of scale")
        poses = Truth.load(frames.truth_path).cam_from_world_mm
        return scale_from_poses(model, poses, "true camera poses of the rendering (stand-in for a tracker)")
    if config.source == "known-distance":
        return _scale_from_distance(model, config)
    return _scale_from_baselines(model, config)


def scale_from_poses(model: SparseModel, cam_from_world_mm: Mapping[int, Rigid3], source: str) -> Scale:
    """Similarity from the registered cameras whose poses are known; gross misregistrations are left out.

    The relative sigma is that of the least-squares scale: with residuals of s per coordinate and camera centres x
    (in mm, about their mean), sigma(scale) / scale = s / sqrt(sum |x|^2).
    """
    ids = sorted(set(model.cam_from_world) & set(cam_from_world_mm))
    keep = ids
    try:
        for _ in range(10):
            align = align_trajectories({i: model.cam_from_world[i] for i in keep}, cam_from_world_mm)
            error = {
                i: float(np.linalg.norm(align.apply(model.cam_from_world[i].center) - cam_from_world_mm[i].center))
                for i in ids
            }
            # Scale of the residuals that a majority of wrong poses would be needed to bend.
            limit = _OUTLIER * 1.4826 * float(np.median(list(error.values())))
            chosen = [i for i in ids if error[i] <= limit]
            if chosen == keep or len(chosen) < max(3, len(ids) / 2):
                break
            keep = chosen
    except InputError as e:
        raise StageError(
            f"scale from {source}: {e.cause}", "more registered frames with poses are needed, from different places"
        ) from e
    centers = np.array([cam_from_world_mm[i].center for i in keep])
    spread = float(((centers - centers.mean(0)) ** 2).sum())
    free = 3 * len(keep) - 7
    sigma = None
    if free > 0:
        residual = float(np.sqrt(sum(error[i] ** 2 for i in keep) / free))
        sigma = residual / np.sqrt(spread)
    left_out = f", {len(ids) - len(keep)} left out as outliers" if len(keep) < len(ids) else ""
    return Scale("mm", align, f"{source} ({len(keep)} cameras{left_out})", sigma).validate()


def _triangulate(model: SparseModel, observations: tuple[PixelObservation, ...]) -> np.ndarray:
    """Point nearest to the viewing rays of float [..., 3] in the model's frame (least squares over rays)."""
    a, b = np.zeros((3, 3)), np.zeros(3)
    for o in observations:
        pose = model.cam_from_world[o.frame_id]
        d = pose.rotation.T @ model.cameras[o.frame_id].unproject(np.array([o.x_px, o.y_px]))
        d /= np.linalg.norm(d)
        m = np.eye(3) - np.outer(d, d)
        a, b = a + m, b + m @ pose.center
    # Smallest eigenvalue ~ sin^2 of the angle between the rays: below 0.1 deg depth is anybody's guess.
    if np.linalg.eigvalsh(a)[0] < np.radians(0.1) ** 2 / 2:
        raise StageError(
            "scale from known-distance: the rays to a point are almost parallel",
            "mark the point in frames taken from places farther apart",
        )
    return np.linalg.solve(a, b)


def _scale_from_distance(model: SparseModel, config: ScaleConfig) -> Scale:
    for o in config.point_a + config.point_b:
        if o.frame_id not in model.cam_from_world:
            raise InputError(
                f"scale from known-distance: frame {o.frame_id} is not registered",
                f"mark the points in registered frames ({_some(model.registered_ids)})",
            )

    def length(a, b) -> float:
        return float(np.linalg.norm(_triangulate(model, a) - _triangulate(model, b)))

    distance = length(config.point_a, config.point_b)
    if not distance > 0:
        raise StageError("scale from known-distance: both points fall together", "mark two different points")
    # First-order propagation of the pixel uncertainty, by a difference quotient per coordinate.
    variance, step = 0.0, 0.1
    for which in (0, 1):
        for k in range(len((config.point_a, config.point_b)[which])):
            for axis in ("x_px", "y_px"):
                points = [list(config.point_a), list(config.point_b)]
                o = points[which][k]
                points[which][k] = o.model_copy(update={axis: getattr(o, axis) + step})
                slope = (length(tuple(points[0]), tuple(points[1])) - distance) / step
                variance += (slope * config.pixel_sigma_px) ** 2
    sigma = float(np.hypot(np.sqrt(variance) / distance, config.distance_sigma_mm / config.distance_mm))
    return Scale(
        "mm", Sim3(config.distance_mm / distance), f"known distance {config.distance_mm:g} mm between two points", sigma
    ).validate()


def _scale_from_baselines(model: SparseModel, config: ScaleConfig) -> Scale:
    registered = model.registered_ids
    if config.pairs == "consecutive":
        everything = sorted(set(registered) | set(model.unregistered))
        known = set(registered)
        pairs = [(a, b) for a, b in zip(everything, everything[1:]) if a in known and b in known]
    else:
        pairs = [tuple(p) for p in config.pairs if p[0] in model.cam_from_world and p[1] in model.cam_from_world]
    if not pairs:
        raise InputError(
            "scale from camera-baseline: in no pair are both frames registered",
            f"name pairs of registered frames ({_some(registered)})",
        )
    centers = {i: model.cam_from_world[i].center for p in pairs for i in p}
    d = np.array([np.linalg.norm(centers[a] - centers[b]) for a, b in pairs])
    if not (d**2).sum() > 0:
        raise StageError("scale from camera-baseline: the cameras stand in one place", "name frames farther apart")
    # Least squares of distance_mm = scale * d; its sigma from the residuals, and what is known of the length itself.
    scale = float(config.distance_mm * d.sum() / (d**2).sum())
    own = config.distance_sigma_mm / config.distance_mm
    sigma = own or None
    if len(d) > 1:
        residual = np.sqrt(((config.distance_mm - scale * d) ** 2).sum() / (len(d) - 1))
        sigma = float(np.hypot(residual / (scale * np.sqrt((d**2).sum())), own))
    source = f"known camera baseline {config.distance_mm:g} mm ({len(d)} pair{'s' if len(d) > 1 else ''})"
    return Scale("mm", Sim3(scale), source, sigma).validate()


def _some(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:8])) + (", ..." if len(ids) > 8 else "")

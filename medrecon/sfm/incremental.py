# SPDX-License-Identifier: Apache-2.0
"""Incremental structure from motion with a ladder of retries for hard footage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from medrecon.config.base import ComponentConfig
from medrecon.errors import StageError
from medrecon.progress import Progress
from medrecon.sfm.cameras import CameraGroup, camera_groups
from medrecon.sfm.graph import components, usable_pairs
from medrecon.sfm.options import MapperConfig
from medrecon.sfm.selection import finish, keypoints_only, largest, rank, require_material
from medrecon.types import Features, FrameSet, MatchGraph, SparseModel


class Rung(ComponentConfig):
    """One relaxation of the thresholds."""

    init_min_tri_angle_deg: float = Field(16.0, ge=0.1, description="least triangulation angle of the first pair")
    init_max_forward_motion: float = Field(
        0.95, ge=0, le=1, description="most the first pair may move along the viewing direction; 1 allows pure advance"
    )
    init_min_inliers: int = Field(100, ge=6, description="least matches of the first pair")
    pose_min_inliers: int = Field(30, ge=6, description="least matches of a frame to the model")

    def words(self) -> str:
        return (
            f"angle >= {self.init_min_tri_angle_deg:g} deg, forward <= {self.init_max_forward_motion:g}, "
            f"first pair >= {self.init_min_inliers}, pose >= {self.pose_min_inliers} inliers"
        )


_RETRIES = (
    Rung(init_min_tri_angle_deg=8, init_max_forward_motion=0.95, init_min_inliers=100, pose_min_inliers=30),
    Rung(init_min_tri_angle_deg=4, init_max_forward_motion=1.0, init_min_inliers=50, pose_min_inliers=20),
    Rung(init_min_tri_angle_deg=2, init_max_forward_motion=1.0, init_min_inliers=30, pose_min_inliers=15),
)


class IncrementalMapperConfig(MapperConfig):
    """COLMAP's thresholds first; each retry relaxes them.

    Within one attempt COLMAP itself halves the angle and the inliers of the first pair up to twice when it finds none.
    """

    init_min_tri_angle_deg: float = Field(16.0, ge=0.1, description="least triangulation angle of the first pair")
    init_max_forward_motion: float = Field(
        0.95, ge=0, le=1, description="most the first pair may move along the viewing direction; 1 allows pure advance"
    )
    init_min_inliers: int = Field(100, ge=6, description="least matches of the first pair")
    pose_min_inliers: int = Field(30, ge=6, description="least matches of a frame to the model")
    max_reprojection_px: float = Field(4.0, gt=0, description="observations farther from their point are dropped")
    retries: tuple[Rung, ...] = Field(_RETRIES, description="thresholds to try next when too few frames register")
    refine_during: Literal["auto", "none", "focal", "all"] = Field(
        "auto",
        description="unknown intrinsics that may change while frames are added; all are refined at the end, from all "
        "frames. Set free on the first few frames of hard footage they run away, held at a wrong guess they hinder. "
        "auto: none where the matches tell the focal length, else focal; more if too few frames register",
    )
    target_fraction: float = Field(
        0.95, gt=0, le=1, description="retries stop once this share of the frames that hang together is registered"
    )
    patience: int = Field(2, ge=1, description="retries in a row that may bring nothing once there is a model")
    max_models: int = Field(10, ge=1, description="separate models to start in one attempt")

    def ladder(self, groups: Sequence[CameraGroup]) -> list[tuple[Rung, str]]:
        """Thresholds and free intrinsics of each attempt: the options' own first, then the retries."""
        first = Rung(
            init_min_tri_angle_deg=self.init_min_tri_angle_deg,
            init_max_forward_motion=self.init_max_forward_motion,
            init_min_inliers=self.init_min_inliers,
            pose_min_inliers=self.pose_min_inliers,
        )
        rungs = (first, *(r for r in self.retries if r != first))
        free = [g for g in groups if not g.fixed]
        if self.refine_during != "auto":
            return [(r, self.refine_during) for r in rungs]
        modes = ["none"] if all(g.trusted for g in free) else ["focal"]
        if free and self.retries:
            modes += ["focal"] if modes == ["none"] else []
            # The four coefficients of a fisheye always run away when they are let loose on two frames.
            modes += ["all"] if any(g.camera.distortion and g.camera.model != "OPENCV_FISHEYE" for g in free) else []
        return [(first, mode) for mode in modes] + [(r, modes[0]) for r in rungs[1:]]


_WORDS = {"none": "intrinsics held", "focal": "distortion held", "all": "intrinsics free"}


class IncrementalMapper:
    """Frames are added one by one to the model of a good first pair (COLMAP)."""

    def __init__(self, config: IncrementalMapperConfig):
        self.config = config

    def map(
        self,
        frames: FrameSet,
        features: Mapping[int, Features],
        graph: MatchGraph,
        work_dir: Path,
        seed: int,
        progress: Progress,
    ) -> SparseModel:
        """See :class:`medrecon.plugins.contracts.Mapper`.  The same seed gives the same bits with ``threads: 1``."""
        from medrecon.sfm import pycolmap_backend as colmap

        c = self.config
        require_material(frames, graph, c.min_num_matches)
        features = keypoints_only(frames, features)
        groups, focal_source = camera_groups(frames, features, graph, c)
        progress.say(f"focal length: {focal_source}")
        database = work_dir / "database.db"
        image_of = colmap.write_database(database, groups, features, graph, c.min_num_matches)
        reachable = len(components(image_of, usable_pairs(graph, c.min_num_matches))[0])
        ladder = c.ladder(groups)
        best: SparseModel | None = None
        pose_min_inliers = c.pose_min_inliers
        attempts = [f"focal length: {focal_source}"]
        idle = 0
        for number, (rung, during) in enumerate(ladder, 1):
            progress.begin(len(frames), "frames")
            shown = 0

            def on_registered(n: int) -> None:
                nonlocal shown
                progress.advance(max(0, n - shown), registered=n)
                shown = max(n, shown)

            models = colmap.map_incremental(
                database,
                image_of,
                groups,
                seed=seed,
                threads=c.threads,
                min_num_matches=c.min_num_matches,
                min_model_size=min(c.min_model_size, len(frames)),
                max_reprojection_px=c.max_reprojection_px,
                max_models=c.max_models,
                min_tri_angle_deg=rung.init_min_tri_angle_deg,
                max_forward_motion=rung.init_max_forward_motion,
                min_init_inliers=rung.init_min_inliers,
                min_pose_inliers=rung.pose_min_inliers,
                refine_during=during,
                on_registered=on_registered,
            )
            model = largest(models)
            got = "no first pair found" if model is None else (
                f"{len(model.cam_from_world)} of {len(frames)} frames, {len(model.points)} points"
            )  # fmt: skip
            attempts.append(f"attempt {number} ({rung.words()}, {_WORDS[during]}): {got}")
            progress.say(attempts[-1])
            if model is not None and (best is None or rank(model) > rank(best)):
                idle = 0 if best is None or len(model.cam_from_world) > len(best.cam_from_world) else idle + 1
                best, pose_min_inliers = model, rung.pose_min_inliers
            elif best is not None:
                idle += 1
            if best is not None and (len(best.cam_from_world) >= c.target_fraction * reachable or idle >= c.patience):
                break
        if best is None:
            raise StageError(
                "no camera could be placed: no pair of frames makes a start. " + "; ".join(attempts[1:]),
                "move the camera sideways between frames rather than only turning it; use more keypoints; or relax "
                "sfm.init_min_tri_angle_deg, sfm.init_min_inliers and sfm.retries",
            )
        return finish(
            best,
            frames,
            features,
            graph,
            c.min_num_matches,
            pose_min_inliers,
            attempts,
            config=c,
            progress=progress,
            max_reprojection_px=c.max_reprojection_px,
        )

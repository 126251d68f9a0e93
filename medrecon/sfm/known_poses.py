# SPDX-License-Identifier: Apache-2.0
"""Poses that are known (tracker, robot, C-arm, rendering) are kept; only the points are reconstructed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import Field

from medrecon.errors import InputError, StageError
from medrecon.progress import Progress
from medrecon.sfm.cameras import camera_groups
from medrecon.sfm.graph import usable_pairs
from medrecon.sfm.options import MapperConfig
from medrecon.sfm.selection import finish, keypoints_only, require_material
from medrecon.types import Features, FrameSet, MatchGraph, Rigid3, SparseModel

MIN_SUPPORT = 0.5  # with poses in disorder about a quarter of the keypoints still finds a point


class KnownPosesMapperConfig(MapperConfig):
    """Options of the mapper for known poses."""

    max_reprojection_px: float = Field(4.0, gt=0, description="observations farther from their point are dropped")
    min_tri_angle_deg: float = Field(1.5, ge=0, description="points seen under a smaller angle are dropped")
    triangulate: bool = Field(
        True,
        description="reconstruct points from the matches; false: there are none (radiographs, pairing none), every "
        "frame must bring its intrinsics too, and the scene's extent is what the views have in common",
    )


class KnownPosesMapper:
    """Every frame that brings a pose is registered at that pose, in its world (mm); matches give the points.

    Intrinsics that are not known stay at their first guess: give them, poses are rarely known without.
    """

    def __init__(self, config: KnownPosesMapperConfig):
        self.config = config

    @property
    def uses_matches(self) -> bool:
        """Without, the funnel has no steps on matches and points."""
        return self.config.triangulate

    def map(
        self,
        frames: FrameSet,
        features: Mapping[int, Features],
        graph: MatchGraph,
        work_dir: Path,
        seed: int,
        progress: Progress,
    ) -> SparseModel:
        """See :class:`medrecon.plugins.contracts.Mapper`.

        Raises:
            InputError: fewer than two frames bring a pose; without triangulation, one of them no intrinsics.
            StageError: fewer than half of the matched keypoints agree with the poses.
        """
        from medrecon.sfm import pycolmap_backend as colmap

        c = self.config
        poses = {f.frame_id: f.cam_from_world_mm for f in frames.frames if f.cam_from_world_mm is not None}
        if len(poses) < 2:
            raise InputError(
                f"{len(poses)} of {len(frames)} frames bring a pose, the mapper known-poses needs two at least",
                "use the mapper incremental, or a source that gives poses (views: known_poses: true)",
            )
        if not c.triangulate:
            model = _without_points(frames, poses, c)
            progress.say(f"known poses: {len(poses)} of {len(frames)} frames, no points")
            return model
        require_material(frames, graph, c.min_num_matches)
        features = keypoints_only(frames, features)
        groups, focal_source = camera_groups(frames, features, graph, c)
        progress.say(f"focal length: {focal_source}")
        image_of = colmap.write_database(work_dir / "database.db", groups, features, graph, c.min_num_matches)
        model = colmap.triangulate(
            work_dir / "database.db",
            image_of,
            groups,
            poses,
            seed=seed,
            threads=c.threads,
            min_num_matches=c.min_num_matches,
            max_reprojection_px=c.max_reprojection_px,
            min_tri_angle_deg=c.min_tri_angle_deg,
        )
        share = _supported(model, graph, c.min_num_matches)
        if share < MIN_SUPPORT:
            raise StageError(
                f"only {100 * share:.0f} % of the matched keypoints agree with the given poses: poses and pictures do "
                "not fit together",
                "check the poses (camera from world, mm, OpenCV axes) and the intrinsics; poses that are only roughly "
                "right are better given to sfm: {name: incremental} with scale: {from: known-poses}",
            )
        said = f"known poses: {len(poses)} of {len(frames)} frames, {len(model.points)} points"
        progress.say(said)
        attempts = [f"focal length: {focal_source}", said]
        return finish(
            model,
            frames,
            features,
            graph,
            c.min_num_matches,
            0,
            attempts,
            config=c,
            progress=progress,
            hold_poses=True,
            max_reprojection_px=c.max_reprojection_px,
        )


def _without_points(frames: FrameSet, poses: Mapping[int, Rigid3], config: MapperConfig) -> SparseModel:
    cameras = {}
    for frame in frames.frames:
        if frame.frame_id in poses:
            size = (frame.width_px, frame.height_px)
            camera = frame.camera or config.known_camera(*size)
            if camera is None:
                raise InputError(
                    f"frame {frame.name} brings a pose but no intrinsics, which nothing else can give without matches",
                    "give source.camera, sfm.focal_px or sfm.intrinsics",
                )
            cameras[frame.frame_id] = camera.scaled(*size).validate()
    return SparseModel(
        cameras=cameras,
        cam_from_world=dict(poses),
        points=np.zeros((0, 3)),
        colors=np.zeros((0, 3), np.uint8),
        errors_px=np.zeros(0),
        track_frame_ids=np.zeros(0, np.int64),
        track_keypoint_idx=np.zeros(0, np.int32),
        track_offsets=np.zeros(1, np.int64),
        unregistered={f.frame_id: "brings no pose" for f in frames.frames if f.frame_id not in poses},
        attempts=(f"known poses: {len(poses)} of {len(frames)} frames, no points",),
    ).validate()


def _supported(model: SparseModel, graph: MatchGraph, min_num_matches: int) -> float:
    """Of the keypoints with a verified match between frames of the model, the share that belongs to a point."""
    matched: set[tuple[int, int]] = set()
    for pair in usable_pairs(graph, min_num_matches):
        if pair.frame_id_a in model.cam_from_world and pair.frame_id_b in model.cam_from_world:
            for frame_id, keypoints in zip((pair.frame_id_a, pair.frame_id_b), pair.inlier_idx.T.tolist()):
                matched.update((frame_id, k) for k in keypoints)
    return len(model.track_frame_ids) / len(matched) if matched else 0.0

# SPDX-License-Identifier: Apache-2.0
"""What every mapper does around COLMAP: checks before, the best model and its finishing touches after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medrecon.errors import InputError, StageError
from medrecon.progress import Progress
from medrecon.sfm.colors import point_colors
from medrecon.sfm.graph import unregistered_reasons, usable_pairs
from medrecon.sfm.options import MapperConfig
from medrecon.sfm.track_refinement import refine_tracks
from medrecon.types import Features, FrameSet, MatchGraph, SparseModel


def require_material(frames: FrameSet, graph: MatchGraph, min_num_matches: int) -> None:
    """Raises StageError when no mapper could work with this."""
    if len(frames) < 2:
        raise StageError(
            f"structure from motion needs at least two pictures from different places, there is {len(frames)}",
            "give more frames, or let keyframe selection keep more of them",
        )
    if not usable_pairs(graph, min_num_matches):
        raise StageError(
            f"not one pair of frames has {min_num_matches} verified matches",
            "use more keypoints, a looser ratio test, pictures with more overlap, or lower sfm.min_num_matches",
        )


def keypoints_only(frames: FrameSet, features: Mapping[int, Features]) -> dict[int, Features]:
    """Every frame's features read once, without descriptors: mapping never looks at those, and they are large.

    Raises:
        InputError: a frame without features.
    """
    light = {}
    for frame in frames.frames:
        if frame.frame_id not in features:
            raise InputError(f"frame {frame.name} has no features", "run again with --from features")
        f = features[frame.frame_id]
        light[frame.frame_id] = replace(f, descriptors=f.descriptors[:, :0].copy())
    return light


def rank(model: SparseModel) -> tuple[int, int]:
    """Larger is better: registered frames, then points."""
    return len(model.cam_from_world), len(model.points)


def largest(models: Sequence[SparseModel]) -> SparseModel | None:
    """The largest model, with the sizes of the others in ``other_models``; None when there is none."""
    if not models:
        return None
    order = sorted(range(len(models)), key=lambda i: (rank(models[i]), -i), reverse=True)
    sizes = tuple(len(models[i].cam_from_world) for i in order[1:])
    return replace(models[order[0]], other_models=sizes)


def finish(
    model: SparseModel,
    frames: FrameSet,
    features: Mapping[int, Features],
    graph: MatchGraph,
    min_num_matches: int,
    min_pose_inliers: int,
    attempts: Sequence[str],
    *,
    config: MapperConfig,
    progress: Progress,
    hold_poses: bool = False,
    max_reprojection_px: float = 4.0,
) -> SparseModel:
    """Refined tracks (``config.refine_tracks``), colours, reasons and the record of attempts."""
    if config.refine_tracks:
        model, said = refine_tracks(
            model,
            frames,
            features,
            hold_poses=hold_poses,
            max_reprojection_px=max_reprojection_px,
            threads=config.threads,
            progress=progress,
        )
        progress.say(said)
        attempts = [*attempts, said]
    ids = [f.frame_id for f in frames.frames]
    return replace(
        model,
        colors=point_colors(frames, features, model),
        unregistered=unregistered_reasons(ids, features, graph, model, min_num_matches, min_pose_inliers),
        attempts=tuple(attempts),
    ).validate()

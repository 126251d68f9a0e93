# SPDX-License-Identifier: Apache-2.0
"""What every mapper's model goes through at the end: keypoints aligned along their tracks, then adjusted anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from medrecon.progress import Progress
from medrecon.sfm.track_alignment import WORKING_SIDE_PX, align_tracks
from medrecon.types import Features, FrameSet, SparseModel

LOSS_PX = 0.25  # about the error of an aligned keypoint, in pixels of a picture of the working size
MIN_ALIGNED = 30  # a frame with fewer aligned observations keeps the others' say in its pose


def refine_tracks(
    model: SparseModel,
    frames: FrameSet,
    features: Mapping[int, Features],
    *,
    hold_poses: bool,
    max_reprojection_px: float,
    threads: int,
    progress: Progress,
) -> tuple[SparseModel, str]:
    """The model adjusted to aligned keypoints, and one line on what came of it.

    The aligned observations alone decide on the poses; then all observations find their points again with the poses
    held, so that no point is lost for want of texture. Intrinsics stay: on a real laparoscopy clip patches whose light
    moves pulled the focal length from 4 % to 8 % beside the truth, on renderings nothing was gained. When tracks cannot
    be refined the model comes back as it was, and the line says why.

    Args:
        hold_poses: the poses are known; only the points move.
        max_reprojection_px: observations farther from their point are dropped.
    """
    from medrecon.sfm.pycolmap_adjustment import adjust

    if not len(model.points):
        return model, "tracks not refined: the model has no points"
    xy = np.empty((len(model.track_frame_ids), 2))
    for frame_id in model.registered_ids:
        here = model.track_frame_ids == frame_id
        xy[here] = features[frame_id].xy[model.track_keypoint_idx[here]]
    progress.begin(2 * len(model.registered_ids), "pictures aligned")
    alignment = align_tracks(model, frames, xy, lambda: progress.advance(1))
    if not alignment.aligned.any():
        return model, "tracks not refined: no two pictures of a point agree"
    share = 100 * alignment.aligned.mean()
    moved = np.linalg.norm(alignment.xy - xy, axis=-1)[alignment.aligned]
    trusted = alignment.aligned.copy()
    for frame_id in model.registered_ids:
        here = model.track_frame_ids == frame_id
        if trusted[here].sum() < MIN_ALIGNED:
            trusted |= here
    side = max(max(c.width_px, c.height_px) for c in model.cameras.values())
    options = {
        "loss_px": LOSS_PX * max(1.0, side / WORKING_SIDE_PX),
        "max_reprojection_px": max_reprojection_px,
        "threads": threads,
    }
    placed = model
    if not hold_poses:
        best = adjust(model, alignment.xy, trusted, hold_poses=False, **options)
        if best is None:
            return model, "tracks not refined: the bundle adjustment of the aligned keypoints failed"
        placed = replace(model, cam_from_world=best.cam_from_world)
    refined = adjust(placed, alignment.xy, np.ones(len(xy), bool), hold_poses=True, **options)
    if refined is None or len(refined.points) < len(model.points) / 2:
        left = 0 if refined is None else len(refined.points)
        return model, f"tracks not refined: only {left} of {len(model.points)} points would be left"
    return refined, (
        f"tracks refined: {share:.0f} % of the observations aligned, moved by {np.median(moved):.2f} px in the median; "
        f"reprojection error {model.mean_reprojection_px:.2f} -> {refined.mean_reprojection_px:.2f} px, "
        f"{len(model.points)} -> {len(refined.points)} points"
    )

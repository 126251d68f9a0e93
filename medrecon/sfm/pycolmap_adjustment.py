# SPDX-License-Identifier: Apache-2.0
"""Bundle adjustment of a finished sparse model with observations of its own, by pycolmap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medrecon.sfm.pycolmap_backend import _load, _quiet
from medrecon.types import Camera, Rigid3, SparseModel


def adjust(
    model: SparseModel,
    xy: np.ndarray,
    use: np.ndarray,
    *,
    hold_poses: bool,
    loss_px: float,
    max_reprojection_px: float,
    threads: int,
) -> SparseModel | None:
    """Poses and points that fit the observations best, in the sense of Cauchy's robust loss. Intrinsics stay.

    Observations farther than ``max_reprojection_px`` from their point are dropped after a first round. The world stays
    where it is: one camera and a coordinate of a second are held. Points without two observations drop out.

    Args:
        xy: float64 [T, 2], positions of the model's observations in pixels; kept in ``track_xy`` of the result.
        use: bool [T], observations to take.
        hold_poses: only the points move.
        loss_px: residual from which on an observation loses weight.

    Returns:
        None when nothing is left to adjust or the adjustment fails; else the model without its colours (black).
    """
    pycolmap = _load()
    rebuilt, observation = _rebuild(pycolmap, model, xy, use)
    if not observation:
        return None
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_rig_from_world = not hold_poses
    options.refine_focal_length = options.refine_extra_params = options.refine_principal_point = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = loss_px
    solver = options.ceres.solver_options
    solver.num_threads = threads
    solver.function_tolerance, solver.max_num_iterations = 1e-6, 50
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in rebuilt.reg_image_ids():
        config.add_image(image_id)
    if not hold_poses:
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    with _quiet(pycolmap):
        for last in (False, True):
            if not rebuilt.num_points3D():
                return None
            summary = pycolmap.create_default_bundle_adjuster(options, config, rebuilt).solve()
            if not summary.is_solution_usable():
                return None
            if not last:
                pycolmap.ObservationManager(rebuilt).filter_all_points3D(max_reprojection_px, 0.0)
        rebuilt.update_point_3d_errors()
    return _read_back(model, rebuilt, observation, xy)


def _rebuild(pycolmap, model: SparseModel, xy: np.ndarray, use: np.ndarray):
    """COLMAP's reconstruction, and the observation behind (image id, its keypoint)."""
    rebuilt = pycolmap.Reconstruction()
    cameras: dict[Camera, int] = {}
    observation, keypoint = {}, {}
    taken = np.flatnonzero(use)
    for frame_id in model.registered_ids:
        c = model.cameras[frame_id]
        if c not in cameras:
            cameras[c] = camera_id = len(cameras) + 1
            size = {"width": c.width_px, "height": c.height_px}
            camera = pycolmap.Camera(model=c.model, params=list(c.params), camera_id=camera_id, **size)
            rebuilt.add_camera_with_trivial_rig(camera)
        here = taken[model.track_frame_ids[taken] == frame_id]
        image_id = frame_id + 1
        observation.update({(image_id, k): int(t) for k, t in enumerate(here)})
        keypoint.update({int(t): k for k, t in enumerate(here)})
        image = pycolmap.Image(
            name=f"{frame_id:06d}", keypoints=xy[here].reshape(-1, 2), camera_id=cameras[c], image_id=image_id
        )
        rebuilt.add_image_with_trivial_frame(image, pycolmap.Rigid3d(model.cam_from_world[frame_id].matrix()[:3]))
    for p in range(len(model.points)):
        here = [t for t in range(model.track_offsets[p], model.track_offsets[p + 1]) if use[t]]
        if len(here) >= 2:
            track = pycolmap.Track()
            for t in here:
                track.add_element(int(model.track_frame_ids[t]) + 1, keypoint[t])
            rebuilt.add_point3D(model.points[p], track)
    return rebuilt, observation


def _read_back(model: SparseModel, rebuilt, observation, xy: np.ndarray) -> SparseModel:
    poses = {}
    for frame_id in model.registered_ids:
        matrix = np.asarray(rebuilt.image(frame_id + 1).cam_from_world().matrix(), np.float64)
        poses[frame_id] = Rigid3(matrix[:, :3].copy(), matrix[:, 3].copy())
    points = [rebuilt.point3D(i) for i in sorted(rebuilt.point3D_ids())]
    tracks = [sorted(observation[e.image_id, e.point2D_idx] for e in p.track.elements) for p in points]
    seen = np.array([t for track in tracks for t in track], np.int64)
    return replace(
        model,
        cam_from_world=poses,
        points=np.array([p.xyz for p in points], np.float64).reshape(-1, 3),
        colors=np.zeros((len(points), 3), np.uint8),
        errors_px=np.array([p.error for p in points], np.float64),
        track_frame_ids=model.track_frame_ids[seen],
        track_keypoint_idx=model.track_keypoint_idx[seen],
        track_offsets=np.concatenate([[0], np.cumsum([len(t) for t in tracks], dtype=np.int64)]).astype(np.int64),
        track_xy=xy[seen],
    )

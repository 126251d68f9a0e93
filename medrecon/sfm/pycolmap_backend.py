# SPDX-License-Identifier: Apache-2.0
"""Everything structure from motion asks of pycolmap. Its interface changes between releases: keep it in this file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import medrecon.images  # noqa: F401  cv2 has to be imported before pycolmap, or writing a PNG aborts the process
from medrecon.errors import MedreconError, StageError
from medrecon.sfm.cameras import CameraGroup
from medrecon.types import Camera, Features, MatchGraph, Rigid3, SparseModel, TwoView

MIN_VERSION, BELOW_VERSION = (4, 0), (5, 0)
_INSTALL = 'install a tested one: pip install "pycolmap>=4.0,<5"'


def _load():
    try:
        import pycolmap
    except Exception as e:
        raise MedreconError(f"pycolmap cannot be imported: {type(e).__name__}: {e}", _INSTALL) from e
    check_version(getattr(pycolmap, "__version__", "unknown"))
    missing = [n for n in ("Database", "IncrementalPipeline", "TwoViewGeometry", "Rig") if not hasattr(pycolmap, n)]
    if missing:
        raise MedreconError(f"pycolmap {pycolmap.__version__} lacks {', '.join(missing)}", _INSTALL)
    return pycolmap


def check_version(version: str) -> None:
    """Raises MedreconError when pycolmap ``version`` is outside the range this adapter was written for."""
    parts = version.split(".")
    numbers = tuple(int(p) for p in parts[:2]) if len(parts) >= 2 and all(p.isdigit() for p in parts[:2]) else None
    if numbers is None or not MIN_VERSION <= numbers < BELOW_VERSION:
        wanted = f">= {'.'.join(map(str, MIN_VERSION))} and < {'.'.join(map(str, BELOW_VERSION))}"
        raise MedreconError(f"pycolmap {version} is installed, but {wanted} is needed", _INSTALL)


@contextmanager
def _quiet(pycolmap) -> Iterator[None]:
    """Only fatal messages on stderr inside: the funnel says better what went wrong."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL.value)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def _two_view(pycolmap, pair: TwoView):
    """COLMAP's two-view geometry of a verified pair, inlier matches included."""
    kinds = pycolmap.TwoViewGeometryConfiguration
    out = pycolmap.TwoViewGeometry()
    out.inlier_matches = pair.inlier_idx.astype(np.uint32)
    if pair.kind == "essential":
        out.config, out.E = int(kinds.CALIBRATED), pair.matrix
    elif pair.kind == "homography":
        out.config, out.H = int(kinds.PLANAR_OR_PANORAMIC), pair.matrix
    else:
        out.config, out.F = int(kinds.UNCALIBRATED), pair.matrix
    return out


def write_database(
    path: Path,
    groups: list[CameraGroup],
    features: Mapping[int, Features],
    graph: MatchGraph,
    min_num_matches: int,
) -> dict[int, int]:
    """Fresh COLMAP database of the cameras, keypoints and verified matches.

    Keypoints go in unchanged: both sides put the centre of the first pixel at (0.5, 0.5).

    Returns:
        COLMAP image id by frame_id (COLMAP's start at 1).
    """
    pycolmap = _load()
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(path.name + "*"):
        stale.unlink()
    image_of: dict[int, int] = {}
    with (
        _quiet(pycolmap),
        pycolmap.Database.open(str(path)) as database,
        pycolmap.DatabaseTransaction(database),
    ):
        for group in groups:
            _write_group(pycolmap, database, group, features, image_of)
        for pair in graph.pairs:
            if pair.kind == "none" or pair.n_inliers < min_num_matches:
                continue
            a, b = image_of.get(pair.frame_id_a), image_of.get(pair.frame_id_b)
            if a is None or b is None:
                continue
            geometry = _two_view(pycolmap, pair)
            database.write_matches(a, b, geometry.inlier_matches)
            database.write_two_view_geometry(a, b, geometry)
    return image_of


def _write_group(pycolmap, database, group: CameraGroup, features, image_of: dict[int, int]) -> None:
    """One camera, its trivial rig, and its images with their keypoints."""
    c = group.camera
    camera = pycolmap.Camera(model=c.model, width=c.width_px, height=c.height_px, params=list(c.params))
    # COLMAP makes no start from fisheye cameras without a prior: let it take the guess for one.
    camera.has_prior_focal_length = group.trusted or c.model == "OPENCV_FISHEYE"
    camera_id = database.write_camera(camera)
    sensor = pycolmap.sensor_t(type=pycolmap.SensorType.CAMERA, id=camera_id)
    rig = pycolmap.Rig()
    rig.add_ref_sensor(sensor)
    rig_id = database.write_rig(rig)
    for frame_id in group.frame_ids:
        image_id = database.write_image(pycolmap.Image(name=f"{frame_id:06d}", camera_id=camera_id))
        frame = pycolmap.Frame()
        frame.rig_id = rig_id
        frame.add_data_id(pycolmap.data_t(sensor_id=sensor, id=image_id))
        database.write_frame(frame)
        database.write_keypoints(image_id, np.ascontiguousarray(features[frame_id].xy, np.float32))
        image_of[frame_id] = image_id


def _run(pipeline) -> None:
    try:
        pipeline.run()
    except (RuntimeError, ValueError) as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        raise StageError(
            f"pycolmap stopped: {lines[0] if lines else type(e).__name__}",
            "use the other mapper (incremental or global), or fewer and better matches",
        ) from e


def _fixed_ids(groups: list[CameraGroup]) -> set[int]:
    """COLMAP camera ids that stay as they are; the database numbers cameras from 1 in the order of the groups."""
    return {i for i, group in enumerate(groups, 1) if group.fixed}


def map_incremental(
    database_path: Path,
    image_of: dict[int, int],
    groups: list[CameraGroup],
    *,
    seed: int,
    threads: int,
    min_num_matches: int,
    min_model_size: int,
    max_reprojection_px: float,
    max_models: int,
    min_tri_angle_deg: float,
    max_forward_motion: float,
    min_init_inliers: int,
    min_pose_inliers: int,
    refine_during: str,
    on_registered: Callable[[int], None],
) -> list[SparseModel]:
    """COLMAP's incremental mapper (Schoenberger and Frahm, CVPR 2016).

    Args:
        refine_during: intrinsics that may change while frames are added: "all", "focal" or "none". The others are
            refined at the end, together. Cameras that are fixed stay fixed either way.
        on_registered: called with the number of frames placed in the model at hand, each time it changes.

    Returns:
        every model it made, in its order; colours, reasons and scale are left open.
    """
    pycolmap = _load()
    o = pycolmap.IncrementalPipelineOptions()
    o.min_num_matches = min_num_matches
    o.min_model_size = min_model_size
    o.max_num_models = max_models
    o.extract_colors = False
    o.num_threads = threads
    o.random_seed = seed
    o.ba_refine_principal_point = False
    o.constant_cameras = _fixed_ids(groups)
    o.ba_refine_extra_params = o.mapper.abs_pose_refine_extra_params = refine_during == "all"
    o.ba_refine_focal_length = o.mapper.abs_pose_refine_focal_length = refine_during != "none"
    # With two frames every track has two views; with more, such tracks are mostly wrong matches.
    o.triangulation.ignore_two_view_tracks = len(image_of) > 2
    m = o.mapper
    m.init_min_tri_angle = min_tri_angle_deg
    m.init_max_forward_motion = max_forward_motion
    m.init_min_num_inliers = min_init_inliers
    m.abs_pose_min_num_inliers = min_pose_inliers
    m.filter_max_reproj_error = max_reprojection_px
    m.filter_min_tri_angle = min(m.filter_min_tri_angle, min_tri_angle_deg)
    o.triangulation.min_angle = m.filter_min_tri_angle
    m.num_threads = threads
    m.constant_cameras = o.constant_cameras
    m.random_seed = o.triangulation.random_seed = seed
    count = 0

    def initial() -> None:
        nonlocal count
        count = 2
        on_registered(count)

    def following() -> None:
        nonlocal count
        count += 1
        on_registered(count)

    with _quiet(pycolmap), pycolmap.Database.open(str(database_path)) as database:
        manager = pycolmap.ReconstructionManager()
        pycolmap.set_random_seed(seed)
        pipeline = pycolmap.IncrementalPipeline(o, database, manager)
        events = pycolmap.IncrementalPipelineCallback
        pipeline.add_callback(int(events.INITIAL_IMAGE_PAIR_REG_CALLBACK), initial)
        pipeline.add_callback(int(events.NEXT_IMAGE_REG_CALLBACK), following)
        _run(pipeline)
        models = [manager.get(i) for i in range(manager.size())]
        if refine_during != "all" and not all(g.fixed for g in groups):
            o.ba_refine_extra_params = o.ba_refine_focal_length = True
            _refine(pycolmap, database, models, o)
        return [_to_sparse(model, image_of) for model in models]


def _refine(pycolmap, database, models, options) -> None:
    """Rounds of bundle adjustment, completion of tracks and removal of outliers, with all unknown intrinsics free."""
    cache_options = pycolmap.DatabaseCacheOptions()
    cache_options.min_num_matches = options.min_num_matches
    cache = pycolmap.DatabaseCache.create(database, cache_options)
    adjustment = options.get_global_bundle_adjustment()
    # COLMAP stops early while frames are still being added; the focal length of small motions lies in a flat valley.
    adjustment.ceres.solver_options.gradient_tolerance = 1e-6
    adjustment.ceres.solver_options.function_tolerance = 1e-7
    adjustment.ceres.solver_options.max_num_iterations = 100
    for model in models:
        mapper = pycolmap.IncrementalMapper(cache)
        mapper.begin_reconstruction(model)
        mapper.iterative_global_refinement(
            options.ba_global_max_refinements,
            options.ba_global_max_refinement_change,
            options.get_mapper(),
            adjustment,
            options.get_triangulation(),
        )
        mapper.end_reconstruction(False)


def map_global(
    database_path: Path,
    image_of: dict[int, int],
    groups: list[CameraGroup],
    *,
    seed: int,
    threads: int,
    min_num_matches: int,
    min_model_size: int,
    min_tri_angle_deg: float,
) -> list[SparseModel]:
    """COLMAP's global mapper (Pan et al., "Global structure-from-motion revisited", ECCV 2024).

    Relative poses are estimated anew from the inlier matches with the cameras of ``groups``.
    """
    pycolmap = _load()
    o = pycolmap.GlobalPipelineOptions()
    o.min_num_matches = min_num_matches
    o.min_model_size = min_model_size
    o.num_threads = threads
    o.random_seed = seed
    m = o.mapper
    m.num_threads = threads
    m.random_seed = seed
    m.rotation_averaging.random_seed = m.global_positioning.random_seed = seed
    m.global_positioning.use_gpu = m.bundle_adjustment.ceres.use_gpu = False
    m.min_tri_angle_deg = min_tri_angle_deg
    fixed = [g.fixed for g in groups]
    m.bundle_adjustment.refine_focal_length = m.bundle_adjustment.refine_extra_params = not any(fixed)
    # The global mapper takes relative poses from the database and cannot make them of fundamental matrices itself.
    calibration = pycolmap.ViewGraphCalibrationOptions()
    calibration.random_seed = seed
    calibration.cross_validate_prior_focal_lengths = False  # a known focal length is known
    with _quiet(pycolmap):
        pycolmap.set_random_seed(seed)
        pycolmap.calibrate_view_graph(str(database_path), calibration)
    with _quiet(pycolmap), pycolmap.Database.open(str(database_path)) as database:
        # The calibration sets fx = fy even where both are known.
        for camera_id, group in enumerate(groups, 1):
            if group.known:
                camera = database.read_camera(camera_id)
                camera.params = list(group.camera.params)
                database.update_camera(camera)
        manager = pycolmap.ReconstructionManager()
        pycolmap.set_random_seed(seed)
        pipeline = pycolmap.GlobalPipeline(o, database, manager)
        _run(pipeline)
        return [_to_sparse(manager.get(i), image_of) for i in range(manager.size())]


def triangulate(
    database_path: Path,
    image_of: dict[int, int],
    groups: list[CameraGroup],
    cam_from_world: Mapping[int, Rigid3],
    *,
    seed: int,
    threads: int,
    min_num_matches: int,
    max_reprojection_px: float,
    min_tri_angle_deg: float,
) -> SparseModel:
    """Points of the matches with all cameras and poses held; frames without a pose stay out."""
    pycolmap = _load()
    model = pycolmap.Reconstruction()
    for camera_id, group in enumerate(groups, 1):
        c = group.camera
        camera = pycolmap.Camera(
            model=c.model, width=c.width_px, height=c.height_px, params=list(c.params), camera_id=camera_id
        )
        model.add_camera_with_trivial_rig(camera)
        for frame_id in group.frame_ids:
            if frame_id in cam_from_world:
                pose = pycolmap.Rigid3d(cam_from_world[frame_id].matrix()[:3])
                image = pycolmap.Image(name=f"{frame_id:06d}", camera_id=camera_id, image_id=image_of[frame_id])
                model.add_image_with_trivial_frame(image, pose)
    o = pycolmap.IncrementalPipelineOptions()
    o.min_num_matches = min_num_matches
    o.extract_colors = False
    o.num_threads = o.mapper.num_threads = threads
    o.random_seed = o.mapper.random_seed = o.triangulation.random_seed = seed
    o.fix_existing_frames = True
    o.triangulation.ignore_two_view_tracks = False  # a wrong match rarely fits a known epipolar line
    o.triangulation.min_angle = o.mapper.filter_min_tri_angle = min_tri_angle_deg
    o.mapper.filter_max_reproj_error = max_reprojection_px
    with _quiet(pycolmap), tempfile.TemporaryDirectory(dir=database_path.parent) as scratch:
        pycolmap.set_random_seed(seed)
        try:
            model = pycolmap.triangulate_points(model, str(database_path), scratch, scratch, True, o)
        except (RuntimeError, ValueError) as e:
            raise StageError(f"pycolmap stopped: {str(e).splitlines()[0]}", "check the poses and intrinsics") from e
        return _to_sparse(model, image_of)


def _to_sparse(reconstruction, image_of: dict[int, int]) -> SparseModel:
    """Typed copy of a COLMAP model; points in the order of their ids, observations in the order of their images."""
    reconstruction.update_point_3d_errors()
    frame_of = {image_id: frame_id for frame_id, image_id in image_of.items()}
    cameras, poses = {}, {}
    for image_id in sorted(reconstruction.reg_image_ids()):
        image = reconstruction.image(image_id)
        camera = reconstruction.camera(image.camera_id)
        frame_id = frame_of[image_id]
        params = tuple(float(p) for p in camera.params)
        cameras[frame_id] = Camera(camera.model_name, int(camera.width), int(camera.height), params)
        matrix = np.asarray(image.cam_from_world().matrix(), np.float64)
        poses[frame_id] = Rigid3(matrix[:, :3].copy(), matrix[:, 3].copy())
    xyz, errors, frame_ids, keypoints, offsets = [], [], [], [], [0]
    for point_id in sorted(reconstruction.point3D_ids()):
        point = reconstruction.point3D(point_id)
        track = sorted((frame_of[e.image_id], e.point2D_idx) for e in point.track.elements)
        xyz.append(np.asarray(point.xyz))
        errors.append(point.error)
        frame_ids += [t[0] for t in track]
        keypoints += [t[1] for t in track]
        offsets.append(len(frame_ids))
    return SparseModel(
        cameras,
        poses,
        np.array(xyz, np.float64).reshape(-1, 3),
        np.zeros((len(xyz), 3), np.uint8),
        np.array(errors, np.float64),
        np.array(frame_ids, np.int64),
        np.array(keypoints, np.int32),
        np.array(offsets, np.int64),
    )

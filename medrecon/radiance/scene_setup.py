# SPDX-License-Identifier: Apache-2.0
"""From a sparse model to a scene: normalisation, depth ranges, bounds, held-out split, known emptiness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medrecon.errors import StageError
from medrecon.radiance.background import background_mask, is_black_scene, visual_hull
from medrecon.radiance.pictures import training_camera, training_picture
from medrecon.radiance.scene import Scene
from medrecon.radiance.settings import TrainingConfig
from medrecon.radiance.view_box import common_box
from medrecon.types import FrameSet, Sim3, SparseModel

HULL_CELLS = 96  # along the longest side of the bounds
BEYOND = 8.0  # rays of an unbounded scene go so many times as far as others
PROBE_VIEWS = 24  # pictures looked at to decide whether the background is black


def split_heldout(frame_ids: list[int], every: int) -> tuple[list[int], list[int]]:
    """(train, held out): every k-th of the sorted ids, beginning in the middle of the first k."""
    heldout = sorted(frame_ids)[every // 2 :: every] if every else []
    return [i for i in sorted(frame_ids) if i not in set(heldout)], heldout


def _split(ids: list[int], training: TrainingConfig) -> tuple[list[int], list[int]]:
    """(train, held out) of the registered frames."""
    if training.heldout_ids is None:
        train, heldout = split_heldout(ids, training.holdout_every if len(ids) >= training.holdout_every else 0)
    else:
        heldout = [i for i in ids if i in set(training.heldout_ids)]
        train = [i for i in ids if i not in set(training.heldout_ids)]
    if training.train_views is not None and training.train_views < len(train):
        train = [train[k] for k in np.linspace(0, len(train) - 1, training.train_views).round().astype(int)]
    if len(train) < 3:
        raise StageError(
            f"only {len(train)} of {len(ids)} registered frames are left to train on, at least 3 are needed",
            "hold out fewer (training.heldout_ids, training.holdout_every), or give more overlapping frames",
        )
    return train, heldout


def build_scene(frames: FrameSet, sparse: SparseModel, training: TrainingConfig) -> Scene:
    """See ``Scene.from_sparse``."""
    ids = [i for i in sparse.registered_ids if i in frames.by_id()]
    if len(ids) < 3:
        raise StageError(
            f"only {len(ids)} frames have a pose: a radiance field needs at least 3",
            "look at the funnel in the report, and give more overlapping frames",
        )
    train_ids, heldout_ids = _split(ids, training)
    points = _reliable_points(sparse) if len(sparse.points) else sparse.points
    cameras = {i: training_camera(sparse.cameras[i], training.max_size_px) for i in ids}
    poses = {i: sparse.cam_from_world[i] for i in ids}

    backgrounds, black = {}, False
    if not training.unbounded:
        backgrounds, black = _look_at_backgrounds(frames, train_ids, cameras, poses, points)
    if len(points):
        low, high = _content_box(points)
        margin = 0.5 if black else 0.15  # the hull shrinks the box again; without one the points are all that is known
        low, high = low - margin * (high - low), high + margin * (high - low)
        if not black:
            low, high = _with_cameras_within(low, high, np.array([poses[i].center for i in ids]))
    else:
        low, high = common_box([cameras[i] for i in ids], [poses[i] for i in ids])
    scene = _place(low, high, ids, train_ids, heldout_ids, cameras, poses, points, sparse, black)
    if training.unbounded:
        far = {i: (near, BEYOND * far) for i, (near, far) in scene.near_far.items()}
        scene = replace(scene, near_far=far, unbounded=True)
    if not black:
        return scene.validate()

    shrunk = _carve(scene, backgrounds)
    if shrunk is None:
        return replace(scene, background="none").validate()
    # A second, finer pass in the box that the first one found.
    low, high = scene.field_from_sfm.inverse().apply(np.stack(shrunk))
    scene = _place(low, high, ids, train_ids, heldout_ids, cameras, poses, points, sparse, black)
    grid = _hull_grid(scene, backgrounds)
    return replace(scene, occupied=grid).validate()


def _reliable_points(sparse: SparseModel) -> np.ndarray:
    """float64 [P, 3]: points seen by three frames or more with a small error, if enough of them are left."""
    good = (np.diff(sparse.track_offsets) >= 3) & (sparse.errors_px <= max(2.0, np.median(sparse.errors_px)))
    points = sparse.points[good] if good.sum() >= 50 else sparse.points
    if len(points) < 8:
        raise StageError(
            f"only {len(sparse.points)} points were reconstructed: the extent of the scene is unknown",
            "more keypoints, or frames with more overlap",
        )
    return points


def _content_box(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Robust corners of the points: stray ones do not count."""
    low, high = np.percentile(points, [1, 99], axis=0)
    # A flat scene still gets some thickness.
    pad = np.maximum(0.1 * (high - low).max() - (high - low), 0) / 2
    return low - pad, high + pad


def _with_cameras_within(low: np.ndarray, high: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where most cameras [F, 3] are in the box, what the others stand in belongs to the scene: a hollow's ends, where
    walls are near and few pictures find points on them. It grows by half its size at most, so that a stray pose does
    not blow it up."""
    if ((centres > low) & (centres < high)).all(-1).mean() <= 0.5:
        return low, high
    size = high - low
    near = 0.1 * size.min()
    grown = np.minimum(low, centres.min(0) - near), np.maximum(high, centres.max(0) + near)
    return np.maximum(grown[0], low - size / 2), np.minimum(grown[1], high + size / 2)


def _place(low, high, ids, train_ids, heldout_ids, cameras, poses, points, sparse, black) -> Scene:
    """The scene whose box [low, high] (reconstruction units) fills the cube [-1, 1]^3 along its longest side."""
    scale = 2.0 / float((high - low).max())
    field_from_sfm = Sim3(scale=scale, translation=-scale * (low + high) / 2)
    bounds_min, bounds_max = field_from_sfm.apply(low), field_from_sfm.apply(high)
    seen = _points_by_frame(sparse)
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    near_far = {}
    for i in ids:
        z_box = poses[i].apply(corners)[:, 2]
        z = poses[i].apply(seen[i])[:, 2] if i in seen else poses[i].apply(points)[:, 2]
        z = z[z > 0]
        if black or len(z) < 8:
            # An object before blackness: the box bounds it, and emptiness is known.
            near, far = z_box.min(), z_box.max()
        else:
            # Matter may be nearer than any point found on it; far walls are what bounds a scene seen from within.
            near, far = 0.4 * np.percentile(z, 1), min(1.3 * np.percentile(z, 99), max(z_box.max(), z.max()))
        near = max(near, 1e-3 * far, 1e-9)
        near_far[i] = (float(near * scale), float(max(far, 1.01 * near) * scale))
    return Scene(
        field_from_sfm, bounds_min, bounds_max, train_ids, heldout_ids, cameras, poses, near_far,
        "black" if black else "none",
    )  # fmt: skip


def _points_by_frame(sparse: SparseModel) -> dict[int, np.ndarray]:
    owner = np.repeat(np.arange(len(sparse.points)), np.diff(sparse.track_offsets))
    order = np.argsort(sparse.track_frame_ids, kind="stable")
    frame_ids, starts = np.unique(sparse.track_frame_ids[order], return_index=True)
    return {int(f): sparse.points[part] for f, part in zip(frame_ids, np.split(owner[order], starts[1:]))}


def _look_at_backgrounds(frames, train_ids, cameras, poses, points) -> tuple[dict[int, np.ndarray], bool]:
    """Background masks of the training pictures, and whether they are before blackness. Held-out ones are not read."""
    by_id = frames.by_id()
    backgrounds: dict[int, np.ndarray] = {}
    probe = train_ids[:: max(1, len(train_ids) // PROBE_VIEWS)]
    masks = {}
    for i in probe:
        picture, masks[i] = training_picture(by_id[i], cameras[i])
        backgrounds[i] = background_mask(picture, masks[i])
    of = lambda table: [table[i] for i in probe]  # noqa: E731
    if not is_black_scene(of(backgrounds), of(masks), of(cameras), of(poses), points):
        return {}, False
    for i in train_ids:
        if i not in backgrounds:
            backgrounds[i] = background_mask(*training_picture(by_id[i], cameras[i]))
    return backgrounds, True


def cell_centres(bounds_min: np.ndarray, bounds_max: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """float64 [X, Y, Z, 3] centres of the cells of a grid over the bounds."""
    axes = [lo + (np.arange(n) + 0.5) * (hi - lo) / n for lo, hi, n in zip(bounds_min, bounds_max, shape)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def grid_shape(bounds_min: np.ndarray, bounds_max: np.ndarray, cells: int) -> tuple[int, int, int]:
    """Cells per axis so that they are about cubes, ``cells`` along the longest."""
    extent = bounds_max - bounds_min
    return tuple(int(max(1, round(cells * e / extent.max()))) for e in extent)


def _hull_grid(scene: Scene, backgrounds: dict[int, np.ndarray], cells: int = HULL_CELLS) -> np.ndarray:
    shape = grid_shape(scene.bounds_min, scene.bounds_max, cells)
    centres = cell_centres(scene.bounds_min, scene.bounds_max, shape).reshape(-1, 3)
    edge = float(((scene.bounds_max - scene.bounds_min) / shape).max())
    ids = sorted(backgrounds)
    votes = max(2, round(0.06 * len(ids)))
    cameras = [scene.cameras[i] for i in ids]
    poses = [scene.cam_from_field(scene.cam_from_sfm[i]) for i in ids]
    return visual_hull(centres, edge, [backgrounds[i] for i in ids], cameras, poses, votes).reshape(shape)


def _carve(scene: Scene, backgrounds: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Corners (field frame) of what a coarse hull leaves, with a cell of margin; None when it leaves nothing."""
    hull = _hull_grid(scene, backgrounds, cells=64)
    if not hull.any():
        return None
    cell = (scene.bounds_max - scene.bounds_min) / hull.shape
    where = np.argwhere(hull)
    low = scene.bounds_min + (where.min(0) - 1) * cell
    high = scene.bounds_min + (where.max(0) + 2) * cell
    return np.maximum(low, scene.bounds_min), np.minimum(high, scene.bounds_max)

# SPDX-License-Identifier: Apache-2.0
"""Keypoints aligned along their tracks, on pictures of a textured ball whose every line of sight has a closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medrecon.images import write_png
from medrecon.metrics.poses import pose_errors
from medrecon.sfm.track_alignment import align_tracks
from medrecon.sfm.track_refinement import refine_tracks
from medrecon.types import Camera, Features, Frame, FrameSet, Rigid3, SparseModel

RADIUS = 100.0
CAMERA = Camera("SIMPLE_RADIAL", 320, 240, (330.0, 160.0, 120.0, 0.05))


class Quiet:
    def begin(self, total, unit):
        pass

    def advance(self, n=1, **figures):
        pass


def hit(pose: Rigid3, pixels: np.ndarray) -> np.ndarray:
    """Where lines of sight through pixels [..., 2] meet the ball, NaN where they miss."""
    d = CAMERA.unproject(pixels) @ pose.rotation
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    along = d @ pose.center
    root = along**2 - (pose.center @ pose.center - RADIUS**2)
    with np.errstate(invalid="ignore"):
        return pose.center + d * (-along - np.sqrt(root))[..., None]


def texture(at: np.ndarray) -> np.ndarray:
    """Grey values of the ball's surface: waves of 6 to 30 mm in all directions."""
    rng = np.random.default_rng(3)
    total = np.zeros(at.shape[:-1])
    for _ in range(40):
        k = rng.normal(size=3)
        k *= 2 * np.pi / rng.uniform(6, 30) / np.linalg.norm(k)
        total += np.sin(at @ k + rng.uniform(0, 2 * np.pi))
    return 128 + 12 * total


@pytest.fixture(scope="module")
def ball(tmp_path_factory):
    """Frames under lights that differ, true poses, and a model with keypoints 0.7 px and poses 0.3 degrees wrong."""
    folder = tmp_path_factory.mktemp("ball")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:240, :320] + 0.5
    frames, poses = [], {}
    for i in range(8):
        a = np.radians(-28 + 8 * i)
        centre = np.array([330 * np.sin(a), 40 * np.cos(3 * a), -330 * np.cos(a)])
        z = -centre / np.linalg.norm(centre)
        right = np.cross([0.0, 1.0, 0.0], z)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(z, right), z])
        poses[i] = Rigid3(rotation, -rotation @ centre)
        grey = texture(hit(poses[i], np.stack([x, y], -1)))
        light = rng.uniform(0.6, 1.1) + 0.2 * rng.uniform(-1, 1) * (x - 160) / 160 + 0.2 * rng.uniform(-1, 1) * y / 240
        grey = np.nan_to_num(grey * light + rng.uniform(-10, 10)) + rng.normal(scale=1.0, size=grey.shape)
        write_png(folder / f"{i}.png", np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, -1))
        frames.append(Frame(i, f"{i:06d}", folder / f"{i}.png", 320, 240))
    d = rng.normal(size=(500, 3)) * [1, 1, 0] + [0, 0, -1.2]
    points = RADIUS * d / np.linalg.norm(d, axis=-1, keepdims=True)
    seen = {}
    for i, pose in poses.items():
        sight = pose.center - points
        facing = (sight * points).sum(-1) > 0.5 * RADIUS * np.linalg.norm(sight, axis=-1)
        xy = CAMERA.project(pose.apply(points)) + rng.normal(scale=0.7, size=(len(points), 2))
        inside = (xy > 8).all(-1) & (xy < [312, 232]).all(-1)
        seen[i] = {int(p): xy[p] for p in np.flatnonzero(facing & inside)}
    tracks = [[(i, seen[i][p]) for i in poses if p in seen[i]] for p in range(len(points))]
    tracked = [p for p, t in enumerate(tracks) if len(t) >= 3]
    features, ids, keypoints, offsets = {i: [] for i in poses}, [], [], [0]
    for p in tracked:
        for i, xy in tracks[p]:
            ids.append(i)
            keypoints.append(len(features[i]))
            features[i].append(xy)
        offsets.append(len(ids))
    for i, xy in features.items():
        n = len(xy)
        features[i] = Features(
            np.float32(xy), np.ones(n, np.float32), np.zeros((n, 4), np.float32), "l2", (320, 240), "synthetic"
        ).validate()
    shaken = {
        i: Rigid3(
            Rotation.from_rotvec(np.radians(rng.normal(scale=0.2, size=3))).as_matrix() @ p.rotation, p.translation
        )
        for i, p in poses.items()
    }
    model = SparseModel(
        dict.fromkeys(poses, CAMERA),
        shaken,
        points[tracked] + rng.normal(scale=0.5, size=(len(tracked), 3)),
        np.zeros((len(tracked), 3), np.uint8),
        np.ones(len(tracked)),
        np.array(ids),
        np.array(keypoints, np.int32),
        np.array(offsets),
    ).validate()
    return FrameSet(tuple(frames), "ball"), features, poses, model


def observed(features, model):
    pairs = zip(model.track_frame_ids.tolist(), model.track_keypoint_idx.tolist())
    return np.array([features[i].xy[k] for i, k in pairs], np.float64)


def reference(alignment, model, p):
    """The observation that stayed where it was."""
    span = np.arange(model.track_offsets[p], model.track_offsets[p + 1])
    return span[np.nanargmax(alignment.correlation[span])]


def test_every_aligned_keypoint_shows_the_place_that_the_reference_shows(ball):
    frames, features, poses, model = ball
    xy = observed(features, model)
    alignment = align_tracks(model, frames, xy)
    assert alignment.aligned.mean() > 0.85
    before, after = [], []
    for p in range(len(model.points)):
        span = np.arange(model.track_offsets[p], model.track_offsets[p + 1])
        if not alignment.aligned[span].any():
            continue
        ref = reference(alignment, model, p)
        assert (alignment.xy[ref] == xy[ref]).all()
        place = hit(poses[int(model.track_frame_ids[ref])], xy[ref])
        for t in span[alignment.aligned[span] & (span != ref)]:
            true = CAMERA.project(poses[int(model.track_frame_ids[t])].apply(place))
            before.append(np.linalg.norm(xy[t] - true))
            after.append(np.linalg.norm(alignment.xy[t] - true))
    assert np.median(before) > 0.9
    assert np.median(after) < 0.12 and np.quantile(after, 0.95) < 0.5
    moved = ~alignment.aligned
    assert (alignment.xy[moved] == xy[moved]).all()


def refined(ball, **changes):
    frames, features, _, model = ball
    options = dict(hold_poses=False, max_reprojection_px=4.0, threads=1, progress=Quiet())
    return refine_tracks(model, changes.pop("frames", frames), features, **{**options, **changes})


def test_poses_get_far_better_and_no_point_is_lost(ball):
    _, _, poses, model = ball
    result, said = refined(ball)
    assert said.startswith("tracks refined: ")
    before, after = pose_errors(model.cam_from_world, poses), pose_errors(result.cam_from_world, poses)
    assert np.median(after.rotation_deg) < np.median(before.rotation_deg) / 4
    assert after.ate < before.ate / 3 or after.ate < 0.1
    assert len(result.points) >= 0.98 * len(model.points)
    assert result.cameras == model.cameras
    assert result.mean_reprojection_px < 0.5
    # errors_px are those of the places given with them
    p = len(result.points) // 2
    span = range(result.track_offsets[p], result.track_offsets[p + 1])
    seen = [CAMERA.project(result.cam_from_world[int(result.track_frame_ids[t])].apply(result.points[p])) for t in span]
    errors = [np.linalg.norm(s - result.track_xy[t]) for s, t in zip(seen, span)]
    assert np.mean(errors) == pytest.approx(result.errors_px[p], rel=1e-6)


def test_the_same_input_gives_the_same_bits(ball):
    first, second = refined(ball)[0], refined(ball)[0]
    assert (first.points == second.points).all() and (first.track_xy == second.track_xy).all()
    assert all((first.cam_from_world[i].matrix() == second.cam_from_world[i].matrix()).all() for i in range(8))


def test_known_poses_stay_and_points_get_better(ball):
    frames, features, poses, model = ball
    result, _ = refined((frames, features, poses, replace(model, cam_from_world=poses)), hold_poses=True)
    assert all(np.allclose(result.cam_from_world[i].matrix(), poses[i].matrix(), atol=1e-12) for i in poses)
    distance = lambda points: np.abs(np.linalg.norm(points, axis=-1) - RADIUS)  # noqa: E731
    assert np.median(distance(result.points)) < 0.5 * np.median(distance(model.points))


def test_pictures_without_texture_leave_the_model_as_it_was(ball, tmp_path):
    frames, _, _, model = ball
    write_png(tmp_path / "grey.png", np.full((240, 320, 3), 90, np.uint8))
    flat = FrameSet(tuple(replace(f, image_path=tmp_path / "grey.png") for f in frames.frames), "flat")
    result, said = refined(ball, frames=flat)
    assert result is model and said == "tracks not refined: no two pictures of a point agree"


def test_masked_places_are_not_looked_at(ball, tmp_path):
    frames, features, _, model = ball
    mask = np.ones((240, 320), bool)
    mask[:, :160] = False
    write_png(tmp_path / "mask.png", mask)
    masked = FrameSet(tuple(replace(f, mask_path=tmp_path / "mask.png") for f in frames.frames), "masked")
    xy = observed(features, model)
    alignment = align_tracks(model, masked, xy)
    assert alignment.aligned.any() and xy[alignment.aligned, 0].min() >= 164


def test_places_survive_saving(ball, tmp_path):
    result, _ = refined(ball)
    result.save(tmp_path)
    assert (SparseModel.load(tmp_path).track_xy == result.track_xy).all()

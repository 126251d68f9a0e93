# SPDX-License-Identifier: Apache-2.0
"""Metric scale from each source, on models whose true scale is known."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from medrecon.errors import InputError, StageError
from medrecon.sfm.scale import PixelObservation, ScaleConfig, find_scale
from medrecon.types import Camera, Rigid3, Sim3, SparseModel, Truth

CAMERA = Camera("SIMPLE_RADIAL", 640, 480, (620.0, 320.0, 240.0, -0.05))
WORLD_FROM_SFM = Sim3(37.5, Rotation.from_euler("xyz", [20, -50, 110], degrees=True).as_matrix(), np.array([5.0, 7, 9]))


def model_of(poses_mm, noise_mm=0.0, seed=0) -> SparseModel:
    """A model in an arbitrary frame whose cameras, moved by WORLD_FROM_SFM, are the given poses (plus noise)."""
    rng = np.random.default_rng(seed)
    to_sfm = WORLD_FROM_SFM.inverse()
    noisy = {i: Rigid3(p.rotation, p.translation + noise_mm * rng.normal(size=3)) for i, p in poses_mm.items()}
    poses = {i: to_sfm.transform_pose(p) for i, p in noisy.items()}
    none = np.zeros(0)
    return SparseModel(
        {i: CAMERA for i in poses}, poses, np.zeros((0, 3)), np.zeros((0, 3), np.uint8), none,
        none.astype(np.int64), none.astype(np.int32), np.zeros(1, np.int64),
    )  # fmt: skip


@pytest.fixture
def orbit(scenes):
    return scenes.make(scenes.orbit(12, wobble=0.1), camera=CAMERA, n_points=50, known_poses=True)


def test_none_says_unknown(orbit):
    scale = find_scale(orbit.frames, model_of(orbit.cam_from_world), ScaleConfig())
    assert scale.unit == "unknown" and scale.stamp == "scale unknown" and scale.metric_from_sfm.scale == 1


def test_known_poses_give_the_whole_similarity(orbit):
    scale = find_scale(orbit.frames, model_of(orbit.cam_from_world), ScaleConfig(source="known-poses"))
    assert scale.unit == "mm" and "known camera poses (12 cameras)" in scale.source
    assert np.allclose(scale.metric_from_sfm.matrix(), WORLD_FROM_SFM.matrix(), atol=1e-8)
    assert scale.relative_sigma < 1e-9


def test_sigma_from_poses_is_the_spread_that_noise_causes(orbit):
    config = ScaleConfig(source="known-poses")
    found = [find_scale(orbit.frames, model_of(orbit.cam_from_world, 3.0, seed), config) for seed in range(200)]
    factors = np.array([s.metric_from_sfm.scale for s in found]) / WORLD_FROM_SFM.scale
    sigma = np.mean([s.relative_sigma for s in found])
    assert sigma == pytest.approx(factors.std(), rel=0.25)
    assert abs(factors.mean() - 1) < 0.3 * sigma + 1e-3


def test_a_misregistered_camera_is_left_out(orbit):
    poses = dict(orbit.cam_from_world)
    poses[5] = Rigid3(poses[5].rotation, poses[5].translation + [150.0, 0, 90])
    model = model_of(poses, noise_mm=0.3)
    scale = find_scale(orbit.frames, model, ScaleConfig(source="known-poses"))
    assert "1 left out" in scale.source
    assert scale.metric_from_sfm.scale == pytest.approx(WORLD_FROM_SFM.scale, rel=0.002)


def test_truth_poses_are_named_as_such(orbit, tmp_path):
    path = tmp_path / "truth.json"
    Truth(cam_from_world_mm=orbit.cam_from_world).save(path)
    frames = replace(orbit.frames, truth_path=path)
    scale = find_scale(frames, model_of(orbit.cam_from_world), ScaleConfig.model_validate({"from": "truth-poses"}))
    assert np.allclose(scale.metric_from_sfm.matrix(), WORLD_FROM_SFM.matrix(), atol=1e-8)
    assert "true camera poses of the rendering" in scale.source
    with pytest.raises(InputError, match="no truth"):
        find_scale(orbit.frames, model_of(orbit.cam_from_world), ScaleConfig(source="truth-poses"))


def see(scene, frame_id, point) -> PixelObservation:
    x, y = CAMERA.project(scene.cam_from_world[frame_id].apply(np.asarray(point, float)))
    return PixelObservation(frame_id=frame_id, x_px=x, y_px=y)


A, B = (10.0, -20.0, 15.0), (-25.0, 12.0, 5.0)


def distance_config(scene, **more) -> ScaleConfig:
    return ScaleConfig(
        source="known-distance",
        distance_mm=float(np.linalg.norm(np.subtract(A, B))),
        point_a=tuple(see(scene, i, A) for i in (0, 1, 2)),
        point_b=tuple(see(scene, i, B) for i in (3, 4)),
        **more,
    )


def test_known_distance(orbit):
    scale = find_scale(orbit.frames, model_of(orbit.cam_from_world), distance_config(orbit))
    assert scale.metric_from_sfm.scale == pytest.approx(WORLD_FROM_SFM.scale, rel=1e-6)
    assert np.array_equal(scale.metric_from_sfm.rotation, np.eye(3))
    assert "known distance 48.4665 mm" in scale.source


def test_sigma_from_a_distance_is_the_spread_that_pixel_noise_causes(orbit):
    model, config = model_of(orbit.cam_from_world), distance_config(orbit, pixel_sigma_px=0.8)
    rng = np.random.default_rng(0)

    def shaken(points):
        return tuple(
            o.model_copy(update={"x_px": o.x_px + 0.8 * rng.normal(), "y_px": o.y_px + 0.8 * rng.normal()})
            for o in points
        )

    factors = [
        find_scale(
            orbit.frames,
            model,
            config.model_copy(update={"point_a": shaken(config.point_a), "point_b": shaken(config.point_b)}),
        ).metric_from_sfm.scale
        for _ in range(120)
    ]
    spread = np.std(factors) / WORLD_FROM_SFM.scale
    assert find_scale(orbit.frames, model, config).relative_sigma == pytest.approx(spread, rel=0.25)
    ruler = distance_config(orbit, pixel_sigma_px=1e-6, distance_sigma_mm=0.484665)
    assert find_scale(orbit.frames, model, ruler).relative_sigma == pytest.approx(0.01, rel=1e-3)


def test_known_distance_refuses_what_it_cannot_use(orbit):
    model = model_of({i: p for i, p in orbit.cam_from_world.items() if i != 3})
    with pytest.raises(InputError, match="frame 3 is not registered"):
        find_scale(orbit.frames, model, distance_config(orbit))
    orbit.cam_from_world[4] = orbit.cam_from_world[3]  # the camera did not move between the two
    with pytest.raises(StageError, match="almost parallel"):
        find_scale(orbit.frames, model_of(orbit.cam_from_world), distance_config(orbit))
    with pytest.raises(ValidationError, match="needs distance_mm"):
        ScaleConfig(source="known-distance")
    with pytest.raises(ValidationError, match="point_b in at least two frames"):
        ScaleConfig(source="known-distance", distance_mm=1, point_a=(see(orbit, 0, A), see(orbit, 1, A)))


def line(n=6, step=4.0):
    return {i: Rigid3(np.eye(3), -np.array([step * i, 0.0, 0.0])) for i in range(n)}


def test_camera_baseline_between_consecutive_frames(orbit):
    scale = find_scale(orbit.frames, model_of(line()), ScaleConfig(source="camera-baseline", distance_mm=4.0))
    assert scale.metric_from_sfm.scale == pytest.approx(WORLD_FROM_SFM.scale)
    assert "4 mm (5 pairs)" in scale.source and scale.relative_sigma < 1e-9


def test_consecutive_does_not_jump_over_a_frame_that_failed(orbit):
    poses = line()
    del poses[3]
    model = replace(model_of(poses), unregistered={3: "no verified pair"})
    scale = find_scale(orbit.frames, model, ScaleConfig(source="camera-baseline", distance_mm=4.0))
    assert scale.metric_from_sfm.scale == pytest.approx(WORLD_FROM_SFM.scale)
    assert "(3 pairs)" in scale.source


def test_camera_baseline_of_named_pairs(orbit):
    config = ScaleConfig.model_validate(
        {"from": "camera-baseline", "distance_mm": 8.0, "pairs": [[0, 2], [1, 3]], "distance_sigma_mm": 0.4}
    )
    scale = find_scale(orbit.frames, model_of(line()), config)
    assert scale.metric_from_sfm.scale == pytest.approx(WORLD_FROM_SFM.scale)
    assert scale.relative_sigma == pytest.approx(0.05)
    far = config.model_copy(update={"pairs": ((0, 99),)})
    with pytest.raises(InputError, match="in no pair"):
        find_scale(orbit.frames, model_of(line()), far)


def test_sources_that_are_not_there(orbit):
    frames = replace(orbit.frames, frames=tuple(replace(f, cam_from_world_mm=None) for f in orbit.frames.frames))
    with pytest.raises(InputError, match="no frame brings a pose"):
        find_scale(frames, model_of(orbit.cam_from_world), ScaleConfig(source="known-poses"))
    one = model_of({0: orbit.cam_from_world[0]})
    with pytest.raises(StageError, match="two common cameras"):
        find_scale(orbit.frames, one, ScaleConfig(source="known-poses"))
    with pytest.raises(ValidationError):
        ScaleConfig(source="guess")

# SPDX-License-Identifier: Apache-2.0
"""The render stage on a tiny run, and camera paths."""

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import medrecon
from medrecon.errors import InputError
from medrecon.progress import Quiet
from medrecon.radiance import RenderConfig, Renders, TrainingConfig, load_field
from medrecon.radiance.depth_colours import depth_picture, depth_range
from medrecon.radiance.paths import goes_round, looks_inwards, orbit, path_poses, through_cameras
from medrecon.radiance.rendering import render_views, video_camera
from medrecon.radiance.scene import Scene
from medrecon.radiance.train import train
from medrecon.radiance.video import write_mp4
from medrecon.radiance.view_maps import render_maps
from medrecon.runfolder import RunFolder

sys.path.insert(0, str(Path(__file__).parent))
from radiance_ball import CENTRE, DISTANCE, RADIUS, ball, look_at, trace  # noqa: E402

OPTIONS = {"width": 32, "coarse_samples": 12, "fine_samples": 12, "max_degree": 5, "direction_degree": 0, "probes": 24}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("run")
    frames, sparse = ball(root / "source", n=10, size=32)
    (root / "stages" / "sfm").mkdir(parents=True)
    sparse.save(root / "stages" / "sfm")
    (root / "stages" / "keyframes").mkdir()
    frames.save(root / "stages" / "keyframes" / "frames.json")
    renderer = medrecon.create("renderer", "mipnerf", **OPTIONS)
    training = TrainingConfig(iterations=200, rays_per_batch=256, max_size_px=24, learning_rate=1e-2, evaluate_every=0)
    train(frames, sparse, renderer, training, root / "stages" / "radiance", 0, "cpu", Quiet())
    return RunFolder(root)


def test_heldout_views_depth_and_video(tmp_path, run):
    config = RenderConfig(max_size_px=32, path_frames=4, path_size_px=32, rays_per_chunk=300)
    render_views(run, config, tmp_path, "cpu", Quiet())
    renders = Renders.load(tmp_path)
    assert renders.renderer == "mipnerf" and renders.appearance == "mean" and len(renders.views) == 1
    view = renders.views[0]
    sparse = run.sparse
    rgb, depth = trace(sparse.cameras[view.frame_id], sparse.cam_from_world[view.frame_id])
    mine = view.load_rgb()
    assert mine.shape == (32, 32, 3) and mine.dtype == np.uint8
    mse = np.mean((mine.astype(float) - rgb) ** 2)
    assert 10 * np.log10(255**2 / mse) > 22
    # z-depth in reconstruction units. After so short a training the surface is soft: in front of the ball's middle.
    mine = view.load_depth_sfm()
    inside = cv2.erode((depth > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    outside = cv2.dilate((depth > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    assert mine.dtype == np.float32 and (mine[outside] == 0).all()
    middle = sparse.cam_from_world[view.frame_id].apply(CENTRE)[2]
    assert (mine[inside] < middle).all() and np.median(np.abs(mine - depth)[inside]) < RADIUS / 2
    assert view.load_opacity()[inside].min() > 0.8 and view.load_opacity()[outside].max() < 0.2
    capture = cv2.VideoCapture(str(renders.path_video))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 32


def test_depth_video_has_the_median_depth_in_colours_of_one_range(tmp_path, run):
    config = RenderConfig(max_size_px=16, path_frames=4, path_size_px=64)
    render_views(run, config, tmp_path, "cpu", Quiet())
    video = Renders.load(tmp_path).depth_video
    renderer, scene = load_field(run)
    camera = video_camera(scene.cameras[scene.train_ids[0]], 64)
    near_far = min(n for n, _ in scene.near_far.values()), max(f for _, f in scene.near_far.values())
    depths = [render_maps(renderer, scene, camera, p, near_far).median_sfm for p in orbit(scene, 4)]
    seen = np.concatenate([d[d > 0] for d in depths])
    # As good as the percentiles of the frames themselves, which are four times as large.
    assert video.near_sfm == pytest.approx(np.percentile(seen, 2), rel=0.1)
    assert video.far_sfm == pytest.approx(np.percentile(seen, 98), rel=0.1)
    capture = cv2.VideoCapture(str(video.path))
    for depth in depths:
        ok, shown = capture.read()
        assert ok
        wanted = depth_picture(depth, video.near_sfm, video.far_sfm)
        assert np.median(np.abs(shown[..., ::-1].astype(int) - wanted)) < 12  # the codec is lossy
    assert not capture.read()[0]
    before = video.path.stat().st_mtime_ns
    (tmp_path / "renders.json").unlink()
    render_views(run, config, tmp_path, "cpu", Quiet())
    again = Renders.load(tmp_path).depth_video
    assert again == video and again.path.stat().st_mtime_ns == before


def test_depth_colours_are_bright_where_it_is_near():
    depth = np.array([[0.0, 1.0, 2.0, 3.0, 9.0]], np.float32)
    shown = depth_picture(depth, 1.0, 3.0).astype(int)
    assert (shown[0, 0] == 128).all() and (shown[0, 3] == shown[0, 4]).all()
    assert shown[0, 1].sum() > shown[0, 2].sum() > shown[0, 3].sum()
    assert depth_range(np.array([0.0, 0.0])) == (0.0, 0.0)
    assert depth_range(np.array([0.0, 5.0, 5.0])) == (5.0, 5.0)


def test_complete_views_of_a_killed_run_are_kept(tmp_path, run):
    config = RenderConfig(max_size_px=16, path_frames=0)
    render_views(run, config, tmp_path, "cpu", Quiet())
    view = Renders.load(tmp_path).views[0]
    before = [p.stat().st_mtime_ns for p in (view.rgb_path, view.depth_path)]
    (tmp_path / "renders.json").unlink()
    render_views(run, config, tmp_path, "cpu", Quiet())
    assert before == [p.stat().st_mtime_ns for p in (view.rgb_path, view.depth_path)]
    view.opacity_path.unlink()
    render_views(run, config, tmp_path, "cpu", Quiet())
    assert view.opacity_path.is_file() and view.rgb_path.stat().st_mtime_ns != before[0]


def test_chunk_size_does_not_change_the_picture(tmp_path, run):
    pictures = []
    for chunk in (77, 10_000):
        render_views(
            run,
            RenderConfig(max_size_px=24, path_frames=0, rays_per_chunk=chunk),
            tmp_path / str(chunk),
            "cpu",
            Quiet(),
        )
        pictures.append(Renders.load(tmp_path / str(chunk)).views[0].load_rgb().astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_broken_renders_file(tmp_path):
    with pytest.raises(InputError):
        Renders.load(tmp_path)
    (tmp_path / "renders.json").write_text('{"schema": 1, "views": [{}]}')
    with pytest.raises(InputError):
        Renders.load(tmp_path)


def test_orbit_looks_at_the_object_from_the_cameras_distance(run):
    scene = Scene.load(run.stage_dir("radiance") / "scene.json")
    assert looks_inwards(scene)
    poses = orbit(scene, 12)
    for pose in poses:
        target = pose.apply(CENTRE)
        assert np.abs(target[:2]).max() < 0.1 * target[2]  # in the middle of the picture
        assert 0.7 * DISTANCE < np.linalg.norm(pose.center - CENTRE) < 1.3 * DISTANCE
    steps = [np.linalg.norm(a.center - b.center) for a, b in zip(poses, poses[1:] + poses[:1])]
    assert max(steps) < 1.01 * min(steps)


@pytest.mark.parametrize(("degrees", "around"), [(360, True), (250, True), (230, False), (20, False)])
def test_nobody_goes_round_what_was_seen_from_one_side(run, degrees, around):
    """The ball's cameras, moved onto an arc: a laparoscope looks inwards too, and sees one side."""
    scene = Scene.load(run.stage_dir("radiance") / "scene.json")
    angles = np.radians(np.linspace(0, degrees, 37))
    at = CENTRE + DISTANCE * np.stack([np.cos(angles), np.sin(angles), 0.2 * np.sin(5 * angles)], -1)
    poses = dict(enumerate(look_at(p, CENTRE) for p in at))
    scene = replace(scene, train_ids=list(poses), heldout_ids=[], cam_from_sfm=poses)
    assert looks_inwards(scene) and goes_round(scene) == around
    expected = (orbit if around else through_cameras)(scene, 6)
    assert all((a.matrix() == b.matrix()).all() for a, b in zip(path_poses(scene, "auto", 6), expected))
    assert all((a.matrix() == b.matrix()).all() for a, b in zip(path_poses(scene, "orbit", 6), orbit(scene, 6)))


def test_path_through_cameras_begins_and_ends_at_them(run):
    scene = Scene.load(run.stage_dir("radiance") / "scene.json")
    poses = through_cameras(scene, 30)
    for pose, i in ((poses[0], scene.train_ids[0]), (poses[-1], scene.train_ids[-1])):
        assert np.allclose(pose.center, scene.cam_from_sfm[i].center)
        assert np.allclose(pose.rotation, scene.cam_from_sfm[i].rotation, atol=1e-9)
    for pose in poses:
        pose.validate()


def test_a_video_that_fails_leaves_nothing(tmp_path):
    def frames():
        yield np.zeros((32, 32, 3), np.uint8)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_mp4(tmp_path / "a.mp4", frames(), (32, 32), 10)
    assert list(tmp_path.iterdir()) == []

# SPDX-License-Identifier: Apache-2.0
"""Scene geometry against the camera model, and normalisation against a scene whose extent is known."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medrecon.errors import InputError, StageError
from medrecon.radiance import Scene, TrainingConfig
from medrecon.radiance.scene_setup import cell_centres, split_heldout
from medrecon.types import Camera, Rigid3, Sim3

sys.path.insert(0, str(Path(__file__).parent))
from radiance_ball import CENTRE, RADIUS, ball  # noqa: E402

MODELS = [
    Camera("SIMPLE_PINHOLE", 40, 30, (35.0, 20.0, 15.0)),
    Camera("PINHOLE", 40, 30, (35.0, 31.0, 18.0, 16.5)),
    Camera("SIMPLE_RADIAL", 40, 30, (35.0, 20.0, 15.0, -0.12)),
    Camera("OPENCV", 40, 30, (35.0, 36.0, 19.0, 15.5, -0.1, 0.02, 0.004, -0.003)),
    Camera("OPENCV_FISHEYE", 40, 30, (25.0, 25.0, 20.0, 15.0, 0.02, -0.004, 0.001, 0.0)),
]


def some_scene(camera: Camera) -> Scene:
    angle = 0.7
    r = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    pose = Rigid3(r, np.array([1.0, -2.0, 30.0]))
    sim = Sim3(0.05, np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]]), np.array([0.1, 0.2, -0.3]))
    big = np.full(3, 100.0)
    return Scene(sim, -big, big, [3], [], {3: camera}, {3: pose}, {3: (0.5, 5.0)}).validate()


@pytest.mark.parametrize("camera", MODELS, ids=lambda c: c.model)
def test_a_ray_hits_what_projects_to_its_pixel(camera):
    """Camera.project is the oracle: the point at any t must land on the pixel's centre, and t must be its z-depth."""
    scene = some_scene(camera)
    rays = scene.rays(3)
    assert len(rays) == 40 * 30
    sfm_from_field = scene.field_from_sfm.inverse()
    for t in (0.7, 4.0):
        field = (rays.origins + t * rays.directions).double().numpy()
        in_camera = scene.cam_from_sfm[3].apply(sfm_from_field.apply(field))
        assert np.allclose(in_camera[:, 2] * scene.field_from_sfm.scale, t, rtol=1e-5)
        v, u = np.mgrid[:30, :40]
        centres = np.stack([u.ravel() + 0.5, v.ravel() + 0.5], -1)
        assert np.abs(camera.project(in_camera) - centres).max() < 1e-3


def test_stride_keeps_every_kth_pixel():
    scene = some_scene(MODELS[0])
    whole, part = scene.rays(3), scene.rays(3, stride=7)
    rows, columns = np.meshgrid(np.arange(0, 30, 7), np.arange(0, 40, 7), indexing="ij")
    assert (part.directions == whole.directions[(rows * 40 + columns).ravel()]).all()


def test_cone_has_the_variance_of_the_pixel():
    """A disc of radius r has variance r^2/4 per axis, a pixel of width w has w^2/12 (mip-NeRF section 3.1)."""
    camera = MODELS[0]
    rays = some_scene(camera).rays(3)
    w = 1 / camera.focal_px[0]
    assert np.allclose(rays.radii.numpy() ** 2 / 4, w**2 / 12, rtol=1e-4)


def test_clipping_to_the_box():
    """The points where a ray enters and leaves lie on the box; a ray that misses it has no length."""
    scene = replace(some_scene(MODELS[0]), bounds_min=np.full(3, -0.2), bounds_max=np.full(3, 0.25))
    rays = scene.rays(3)
    hit = (rays.far > rays.near)[:, 0]
    assert 0 < hit.sum() < len(rays)
    for t in (rays.near, rays.far):
        p = (rays.origins + t * rays.directions)[hit].numpy()
        off = np.minimum(np.abs(p + 0.2), np.abs(p - 0.25)).min(1)
        clipped = np.isclose(t[hit, 0].numpy(), [[0.5], [5.0]], atol=1e-6).any(0)
        assert (off[~clipped] < 1e-5).all() and not clipped.all()
    # Misses: no sampled point of the ray lies inside.
    t = np.linspace(0.5, 5, 400)[:, None, None]
    miss = rays.origins[~hit].numpy() + t * rays.directions[~hit].numpy()
    inside = ((miss > -0.199) & (miss < 0.249)).all(-1)
    assert not inside.any()


def test_normalisation_of_a_ball(tmp_path):
    frames, sparse = ball(tmp_path, n=12, size=48)
    scene = Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=48, holdout_every=4))
    assert scene.background == "black"
    assert np.abs(scene.bounds_min).max() <= 1 + 1e-9 and np.abs(scene.bounds_max).max() <= 1 + 1e-9
    # The ball lies inside the bounds, and they are tight round it.
    lo, hi = (scene.field_from_sfm.apply(CENTRE + s * RADIUS) for s in (-1, 1))
    assert (scene.bounds_min <= lo + 1e-6).all() and (hi <= scene.bounds_max + 1e-6).all()
    assert (scene.bounds_max - scene.bounds_min).max() < 1.5 * (hi - lo).max()
    # No cell of the ball was carved away, and most of what surrounds it was.
    centres = cell_centres(scene.bounds_min, scene.bounds_max, scene.occupied.shape)
    inside = np.linalg.norm(centres - scene.field_from_sfm.apply(CENTRE), axis=-1) < RADIUS * scene.field_from_sfm.scale
    assert scene.occupied[inside].all()
    assert scene.occupied[~inside].mean() < 0.6
    # Each ball point lies in the depth range of each camera.
    for i in scene.frame_ids:
        z = scene.cam_from_sfm[i].apply(CENTRE)[2] * scene.field_from_sfm.scale
        r = RADIUS * scene.field_from_sfm.scale
        near, far = scene.near_far[i]
        assert near <= z - r and z + r <= far
    assert len(scene.heldout_ids) == 3 and not set(scene.heldout_ids) & set(scene.train_ids)


def test_stray_points_do_not_blow_up_the_scene(tmp_path):
    frames, sparse = ball(tmp_path, n=8, size=32)
    clean = Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=32))
    points = sparse.points.copy()
    points[:2] = [[5e3, 0, 0], [0, -8e3, 100.0]]
    dirty = Scene.from_sparse(frames, replace(sparse, points=points), TrainingConfig(max_size_px=32))
    assert dirty.field_from_sfm.scale == pytest.approx(clean.field_from_sfm.scale, rel=0.2)


def test_dark_rim_that_moves_with_the_camera_is_no_background(tmp_path):
    """An endoscope's border hides points that other pictures see: nothing may be carved by it."""
    from medrecon.images import read_rgb, write_png

    frames, sparse = ball(tmp_path, n=8, size=32)
    for f in frames.frames:
        image = read_rgb(f.image_path)
        image[image.max(-1) <= 3] = 90  # tissue everywhere ...
        v, u = np.mgrid[:32, :32]
        image[np.hypot(u - 15.5, v - 15.5) > 8] = 0  # ... but only a round hole to look through
        write_png(f.image_path, image)
    scene = Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=32))
    assert scene.background == "none" and scene.occupied is None


def test_masked_pixels_are_not_background(tmp_path):
    """Where the mask says ignore, blackness proves nothing."""
    size = 32
    nothing = np.zeros((size, size), bool)
    nothing[10:22, 10:22] = True  # only the ball's middle may be used
    frames, sparse = ball(tmp_path, n=8, size=size, masks={10 + 3 * k: nothing for k in range(8)})
    assert Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=size)).background == "none"


def test_seen_from_within(tmp_path):
    """Cameras inside a cloud of points: near is before the nearest point each sees, far behind the farthest."""
    frames, sparse = ball(tmp_path, n=8, size=32)
    from medrecon.images import write_png

    for f in frames.frames:
        write_png(f.image_path, np.full((32, 32, 3), 120, np.uint8))
    scene = Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=32, holdout_every=0))
    assert scene.background == "none" and not scene.heldout_ids
    owner = np.repeat(np.arange(len(sparse.points)), np.diff(sparse.track_offsets))
    for i in scene.train_ids:
        z = (
            scene.cam_from_sfm[i].apply(sparse.points[owner[sparse.track_frame_ids == i]])[:, 2]
            * scene.field_from_sfm.scale
        )
        assert 0 < scene.near_far[i][0] < z.min() and z.max() < scene.near_far[i][1]


def test_frames_held_out_by_number_and_fewer_to_train_on(tmp_path):
    frames, sparse = ball(tmp_path, n=12, size=32)
    out = tuple(sparse.registered_ids[k] for k in (2, 7))
    training = TrainingConfig(max_size_px=32, heldout_ids=(*out, 999), train_views=5)
    scene = Scene.from_sparse(frames, sparse, training)
    assert scene.heldout_ids == list(out) and len(scene.train_ids) == 5
    rest = [i for i in sparse.registered_ids if i not in out]
    assert set(scene.train_ids) <= set(rest) and scene.train_ids[0] == rest[0] and scene.train_ids[-1] == rest[-1]
    with pytest.raises(StageError, match="2 of 12 registered frames are left"):
        Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=32, heldout_ids=tuple(rest[2:]) + out))


def test_both_ends_of_a_hollow_belong_to_the_scene():
    """A tube along x with points from 10 to 90 and cameras from 0 to 100; one stray camera, and an object seen from
    without, whose cameras are no part of it."""
    from medrecon.radiance.scene_setup import _with_cameras_within

    centres = np.stack([np.linspace(0, 100, 21), np.zeros(21), np.zeros(21)], -1)
    low, high = np.array([10.0, -8, -8]), np.array([90.0, 8, 8])
    a, b = _with_cameras_within(low, high, centres)
    assert (a < centres).all() and (centres < b).all() and (a[1:] == low[1:]).all() and (b[1:] == high[1:]).all()
    stray = np.concatenate([centres, [[1e6, 0, 0]]])
    assert _with_cameras_within(low, high, stray)[1].tolist() == [130, 8, 8]
    outside = centres + [0, 50, 0]
    assert [x.tolist() for x in _with_cameras_within(low, high, outside)] == [low.tolist(), high.tolist()]


def test_split_is_by_id_and_every_kth():
    train, held = split_heldout([40, 10, 30, 20, 50, 60, 70, 80], 4)
    assert held == [30, 70] and train == [10, 20, 40, 50, 60, 80]
    assert split_heldout([3, 1, 2], 0) == ([1, 2, 3], [])


def test_too_few_frames(tmp_path):
    frames, sparse = ball(tmp_path, n=8, size=16)
    two = replace(sparse, cam_from_world={i: sparse.cam_from_world[i] for i in sparse.registered_ids[:2]})
    with pytest.raises(StageError, match="at least 3"):
        Scene.from_sparse(frames, two, TrainingConfig(max_size_px=16))


def test_save_and_load(tmp_path):
    frames, sparse = ball(tmp_path, n=6, size=24)
    scene = Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=24, holdout_every=3))
    scene.save(tmp_path / "scene.json")
    again = Scene.load(tmp_path / "scene.json")
    assert (again.occupied == scene.occupied).all() and again.cameras == scene.cameras
    assert again.near_far == scene.near_far and again.heldout_ids == scene.heldout_ids
    a, b = scene.rays(13), again.rays(13)
    assert (a.directions == b.directions).all() and (a.near == b.near).all()


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99},
        {"train_ids": "abc"},
        {"bounds_min": [0, 0]},
        {"near_far": {}},
        {"background": "green"},
        {"occupied": {"shape": [1 << 20, 1 << 20, 1 << 20], "zlib_bits": ""}},
        {"occupied": {"shape": [4, 4, 4], "zlib_bits": "eJwDAAAAAAE="}},
        {"cam_from_sfm": {"10": [[1, 2], [3, 4]]}},
    ],
)
def test_broken_scene_files(tmp_path, change):
    frames, sparse = ball(tmp_path, n=4, size=16)
    Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=16)).save(tmp_path / "scene.json")
    data = json.loads((tmp_path / "scene.json").read_text())
    (tmp_path / "scene.json").write_text(json.dumps({**data, **change}))
    with pytest.raises(InputError):
        Scene.load(tmp_path / "scene.json")

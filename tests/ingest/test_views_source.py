# SPDX-License-Identifier: Apache-2.0
"""The views source: what it writes, what it withholds, and that the same seed gives the same bytes."""

import hashlib

import nibabel as nib
import numpy as np
import pytest
from pydantic import ValidationError

from medrecon.assets.demo import BUILTIN_VOLUMES, builtin_volume
from medrecon.errors import ConfigError, InputError
from medrecon.images import read_mask, read_rgb
from medrecon.ingest.body import body_mask, remove_table
from medrecon.ingest.centre_line import centre_line
from medrecon.ingest.transfer_functions import PRESETS, transfer_function
from medrecon.ingest.views import ViewsSource, ViewsSourceConfig, visible_sphere
from medrecon.ingest.volume import load_volume
from medrecon.progress import Quiet
from medrecon.types import FrameSet, Truth, Volume
from medrecon.types.storage import read_npz

SMALL = {"n_views": 4, "image_size_px": (96, 80), "supersample": 1, "transfer": "bone"}


def _grid(shape, spacing):
    return np.stack(np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing)), indexing="ij"), -1)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    """A bone ellipsoid with two knobs in air, in a left-handed NIfTI."""
    shape, spacing = (48, 40, 30), (2.0, 2.0, 3.0)
    xyz = _grid(shape, spacing)
    depth = 1 - np.linalg.norm(xyz / (30, 24, 26), axis=-1)
    for knob in [(25, 10, 20), (-20, -15, -25)]:
        depth = np.maximum(depth, 0.4 - np.linalg.norm(xyz - knob, axis=-1) / 25)
    hu = np.clip(np.where(depth > -0.3, 3000 * depth + 200, -1000), -1000, 1000)
    affine = np.diag([-2.0, 2, 3, 1])
    affine[:3, 3] = (50, 10, -100)
    path = tmp_path_factory.mktemp("ct") / "ct.nii.gz"
    nib.save(nib.Nifti1Image(hu.astype(np.int16), affine), path)
    return path


def _read(path, out, **options):
    quiet = Quiet()
    frames = ViewsSource(ViewsSourceConfig(path=path, **{**SMALL, **options})).read(out, quiet)
    return frames, quiet


def _digests(folder):
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.suffix in (".png", ".ply")}  # fmt: skip


def test_files_and_truth(ct, tmp_path):
    frames, _ = _read(ct, tmp_path)
    assert len(frames) == 4 and [f.name for f in frames.frames] == ["000000", "000001", "000002", "000003"]
    truth = Truth.load(frames.truth_path)
    assert frames.truth_path == tmp_path / "truth" / "truth.json"
    center = np.array([50, 10, -100]) + np.array([-2, 2, 3]) * (np.array([48, 40, 30]) - 1) / 2
    for frame in frames.frames:
        image = frame.load_image()
        assert image.shape == (80, 96, 3) and image.max() > 100
        depth = read_npz(truth.depth_paths[frame.frame_id])["depth_mm"]
        mask = read_mask(tmp_path / "truth" / "masks" / f"{frame.name}.png")
        assert depth.dtype == np.float32 and depth.shape == (80, 96)
        assert np.array_equal(mask, depth > 0) and 0.05 < mask.mean() < 0.9
        assert image[~mask].mean() < 6 < image[mask].mean(), "black around the object"
        camera, pose = truth.cameras[frame.frame_id], truth.cam_from_world_mm[frame.frame_id]
        assert camera.model == "PINHOLE" and camera.principal_px == (48, 40)
        v, u = np.nonzero(depth)
        points = pose.inverse().apply(camera.unproject(np.stack([u, v], -1) + 0.5) * depth[v, u, None])
        assert np.linalg.norm(points.mean(0) - center) < 40 and np.linalg.norm(points - center, axis=1).max() < 60
    assert truth.surface_path.read_bytes().startswith(b"ply\nformat binary_little_endian")
    assert truth.volume_path == ct.resolve()
    frames.save(tmp_path / "frames.json")
    assert len(FrameSet.load(tmp_path / "frames.json")) == 4


def test_nothing_true_reaches_the_reconstruction(ct, tmp_path):
    frames, _ = _read(ct, tmp_path / "a")
    assert all(f.camera is None and f.cam_from_world_mm is None and f.mask_path is None for f in frames.frames)
    given, _ = _read(ct, tmp_path / "b", known_intrinsics=True, known_poses=True)
    truth = Truth.load(given.truth_path)
    for frame in given.frames:
        assert frame.camera == truth.cameras[frame.frame_id] and frame.mask_path is None
        assert np.allclose(frame.cam_from_world_mm.matrix(), truth.cam_from_world_mm[frame.frame_id].matrix())


def test_seed_decides_and_a_killed_run_resumes(ct, tmp_path):
    options = {"noise_sigma": 4.0, "exposure_jitter": 0.2, "seed": 3}
    _read(ct, tmp_path / "a", **options)
    _read(ct, tmp_path / "b", **options)
    whole = _digests(tmp_path / "a")
    assert whole == _digests(tmp_path / "b") and len(whole) == 9
    (tmp_path / "b" / "images" / "000002.png").unlink()
    (tmp_path / "b" / "truth" / "depth" / "000003.npz").write_bytes(b"cut")
    kept = (tmp_path / "b" / "images" / "000001.png").stat().st_mtime_ns
    _read(ct, tmp_path / "b", **options)
    assert whole == _digests(tmp_path / "b")
    assert (tmp_path / "b" / "images" / "000001.png").stat().st_mtime_ns == kept
    assert "depth_mm" in read_npz(tmp_path / "b" / "truth" / "depth" / "000003.npz")
    _read(ct, tmp_path / "c", **{**options, "seed": 4})
    assert whole["images/000000.png"] != _digests(tmp_path / "c")["images/000000.png"]


def test_noise_jitter_and_reach_do_what_they_say(ct, tmp_path):
    plain, _ = _read(ct, tmp_path / "plain")
    noisy, _ = _read(ct, tmp_path / "noisy", noise_sigma=5.0)
    gain, _ = _read(ct, tmp_path / "gain", exposure_jitter=0.3)
    dim, _ = _read(ct, tmp_path / "dim", light_reach_mm=100.0)
    quarter, _ = _read(ct, tmp_path / "quarter", gain=0.25)
    a = [f.load_image().astype(float) for f in plain.frames]
    b = [f.load_image().astype(float) for f in noisy.frames]
    bright = [x > 40 for x in a]
    assert np.std(np.concatenate([(y - x)[m & (x < 235)] for x, y, m in zip(a, b, bright)])) == pytest.approx(
        5, rel=0.1
    )
    assert np.abs(quarter.frames[0].load_image() - 0.25 * a[0])[a[0].max(-1) < 250].max() < 1.0
    ratios = []
    for frame, x, m in zip(gain.frames, a, bright):
        ratio = frame.load_image()[m & (x < 120)] / x[m & (x < 120)]
        assert np.std(ratio) < 0.02
        ratios.append(np.log(ratio.mean()))
    assert 0.05 < np.std(ratios) < 0.7
    depth = read_npz(tmp_path / "dim" / "truth" / "depth" / "000000.npz")["depth_mm"]
    where = (depth > 0) & bright[0].all(-1)
    expected = a[0][where] * ((100 / depth[where]) ** 2)[:, None]
    assert np.abs(dim.frames[0].load_image()[where] - expected).max() < 1.5


def test_fly_through_by_points(ct, tmp_path):
    path = {"kind": "fly-through", "points_mm": [(0, 40, -60), (5, 50, -55), (10, 60, -50)], "wobble_mm": 0}
    frames, _ = _read(ct, tmp_path, camera_path=path, fov_deg=70, light="headlight")
    poses = Truth.load(frames.truth_path).cam_from_world_mm
    assert np.allclose(poses[0].center, (0, 40, -60)) and np.allclose(poses[3].center, (10, 60, -50), atol=0.1)
    with pytest.raises(ConfigError, match="outside the volume"):
        _read(ct, tmp_path / "x", camera_path={**path, "points_mm": [(900, 0, 0), (950, 0, 0)]})


def test_impossible_options_are_named(ct, tmp_path):
    for options in [
        {"n_views": 0}, {"image_size_px": (4, 4)}, {"fov_deg": 180}, {"transfer": "bones"}, {"supersample": 0},
        {"camera_path": {"kind": "spiral"}}, {"camera_path": {"kind": "orbit", "elevation_deg": (40, -10)}},
        {"camera_path": {"kind": "fly-through", "points_mm": [(0, 0, 0)]}}, {"lamp": "on"},
        {"noise_sigma": float("nan")},
        {"transfer": {"points": [(0, 0, 0, 0, 0)]}}, {"transfer": {"points": [(0, 0, 0, 0, 0), (1, 0, 0, 0, 2)]}},
    ]:  # fmt: skip
        with pytest.raises(ValidationError):
            ViewsSourceConfig(path=ct, **{**SMALL, **options})
    with pytest.raises(InputError, match="nothing is visible"):
        _read(ct, tmp_path / "a", transfer={"points": [(5000, 1, 1, 1, 0), (6000, 1, 1, 1, 1)]})
    with pytest.raises(InputError, match="does not exist"):
        _read(tmp_path / "none.nii.gz", tmp_path / "b")
    with pytest.raises(InputError, match="no built-in volume"):
        _read("builtin:leg", tmp_path / "c")
    assert not list(tmp_path.rglob("*.png"))


def test_flat_and_constant_volumes_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.int16), np.eye(4)), tmp_path / "zero.nii")
    nib.save(nib.Nifti1Image(np.full((9, 9, 1), 900, np.int16), np.eye(4)), tmp_path / "flat.nii")
    with pytest.raises(InputError, match="nothing is visible"):
        _read(tmp_path / "zero.nii", tmp_path / "a")
    with pytest.raises(InputError, match="two slices"):
        _read(tmp_path / "flat.nii", tmp_path / "b")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sane(name):
    function = PRESETS[name]
    assert (np.diff(function.points[:, 0]) > 0).all()
    assert function.points[:, 1:].min() >= 0 and function.points[:, 1:].max() <= 1
    level = function.level()
    assert function.points[0, 0] < level < function.points[-1, 0]
    assert function.alpha(level - 0.3 * abs(level)) < function.alpha(level) <= 0.9


def test_fraction_units_follow_the_scanner():
    data = np.random.default_rng(0).uniform(0, 1, (20, 20, 20)).astype(np.float32)
    a = transfer_function("brain-surface").on(Volume(data, np.eye(4))).level()
    b = transfer_function("brain-surface").on(Volume(data * 2000, np.eye(4))).level()
    assert b / a == pytest.approx(2000, rel=1e-3)


def test_visible_sphere_holds_what_is_visible(ct):
    volume = load_volume(ct)
    center, radius = visible_sphere(volume, transfer_function("bone"))
    voxels = np.argwhere(volume.data > 250)
    points = voxels @ volume.ras_from_ijk_mm[:3, :3].T + volume.ras_from_ijk_mm[:3, 3]
    away = np.linalg.norm(points - center, axis=1)
    assert (away < radius).mean() > 0.99 and radius < 1.2 * away.max()


def _patient(affine_flip=1):
    """A body with lungs, lying on a table it touches, with a tube of air inside as trachea."""
    shape, spacing = (80, 80, 40), (4.0, 4.0, 5.0)
    x, y, z = np.moveaxis(_grid(shape, spacing), -1, 0)
    hu = np.full(shape, -1000.0)
    hu[(x / 120) ** 2 + (y / 80) ** 2 < 1] = 40
    for side in (-60, 60):
        hu[((x - side) / 40) ** 2 + (y / 55) ** 2 + (z / 70) ** 2 < 1] = -800
    trachea = (x**2 + (y - 20) ** 2 < 9**2) & (z > -40)
    hu[trachea] = -1000
    table = (y < -79) & (y > -84) & (np.abs(x) < 140)  # touches the back
    hu[table & (hu < -900)] = 100
    affine = np.diag([4.0 * affine_flip, 4, 5, 1])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Volume(hu.astype(np.int16), affine), table, trachea


def test_table_goes_and_body_stays():
    volume, table, trachea = _patient()
    mask = body_mask(volume)
    x, y, _ = np.moveaxis(_grid(volume.data.shape, (4, 4, 5)), -1, 0)
    body = (x / 120) ** 2 + (y / 80) ** 2 < 1
    assert mask[body].mean() > 0.99, "lungs and trachea are part of the body"
    assert mask[table & ~body].mean() < 0.25  # what is left touches the back
    left = remove_table(volume)
    assert left.data.dtype == np.int16 and (left.data[mask] == volume.data[mask]).all()
    assert (left.data[~mask] == -1000).all()
    with pytest.raises(InputError, match="no body"):
        body_mask(Volume(np.full((30, 30, 30), -1000, np.int16), np.eye(4)))


@pytest.mark.parametrize("flip", [1, -1])
def test_airway_centre_line_follows_the_tube(flip):
    volume, _, trachea = _patient(flip)
    path = centre_line(volume, "airway", spacing_mm=10)
    assert path[0, 2] > 80 and path[-1, 2] < -30, "from the top of the trachea to its end"
    assert np.hypot(path[:, 0], path[:, 1] - 20).max() < 5, "in the middle"
    with pytest.raises(ConfigError, match="start_mm and end_mm"):
        centre_line(volume, "vessel")
    with pytest.raises(InputError, match="no lumen within"):
        centre_line(volume, "airway", end_mm=(0, 500, 0))


def test_every_builtin_volume_is_there_and_small():
    for name in BUILTIN_VOLUMES:
        path = builtin_volume(name)
        assert path.stat().st_size <= 12_000_000
        volume = load_volume(path)
        assert volume.data.dtype == np.int16 and volume.data.min() == -1000
        assert min(volume.data.shape) > 100 and max(volume.spacing_mm) <= 2.5


def test_the_demo_volume_holds_no_table(tmp_path):
    """Behind the patient's back there is only air, and the bones are all there."""
    volume = load_volume(builtin_volume("chest-ct"))
    mask = body_mask(volume)
    assert (volume.data[~mask] > -300).mean() < 1e-4
    assert 1.0e6 < (volume.data > 200).sum() * np.prod(volume.spacing_mm) < 3.0e6  # mm3 of bone and contrast agent


def test_depth_and_picture_do_not_need_opengl(ct, tmp_path):
    """No GL library is loaded by rendering: a bare server renders the same pictures."""
    import subprocess
    import sys

    code = (
        "from pathlib import Path; from medrecon.ingest.views import *; from medrecon.progress import Quiet\n"
        f"c = ViewsSourceConfig(path={str(ct)!r}, n_views=1, image_size_px=(64, 64), supersample=1)\n"
        f"ViewsSource(c).read(Path({str(tmp_path)!r}), Quiet())\n"
        "maps = Path('/proc/self/maps')\n"
        "text = maps.read_text() if maps.exists() else ''\n"
        "print([n for n in ('libEGL', 'libGL.', 'libOSMesa', 'libX11') if n in text])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=_bare_environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]" and "X server" not in done.stderr
    assert read_rgb(tmp_path / "images" / "000000.png").max() > 100


def _bare_environment():
    import os
    from pathlib import Path

    import medrecon

    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    env["PYTHONPATH"] = str(Path(medrecon.__file__).parents[1])
    return env

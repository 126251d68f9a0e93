# SPDX-License-Identifier: Apache-2.0
"""Computed radiographs: line integrals against closed forms and dense sampling, and what the source writes."""

import nibabel as nib
import numpy as np
import pytest
from pydantic import ValidationError
from scipy.ndimage import map_coordinates

from medrecon.errors import InputError
from medrecon.images import read_any
from medrecon.ingest.drr import Projector, attenuation_of_hounsfield
from medrecon.ingest.projections import ProjectionsSource, ProjectionsSourceConfig
from medrecon.progress import Quiet
from medrecon.types import Camera, Rigid3, Truth, Volume

SMALL = {"n_views": 4, "image_size_px": (40, 32), "supersample": 1, "distance_mm": 300.0}


def grid_mm(shape, affine):
    return np.indices(shape).transpose(1, 2, 3, 0) @ affine[:3, :3].T + affine[:3, 3]


def rays(n, seed, reach):
    """From a sphere of that radius to random places near its middle; directions of any length."""
    random = np.random.default_rng(seed)
    origins = random.normal(size=(n, 3))
    origins *= reach / np.linalg.norm(origins, axis=1, keepdims=True)
    aim = random.uniform(-0.2 * reach, 0.2 * reach, (n, 3))
    return origins, (aim - origins) * random.uniform(0.3, 2, (n, 1))


def test_ball_in_closed_form():
    """2 mu sqrt(r^2 - b^2), from any direction, in voxels of three different sides."""
    affine = np.diag([1.0, -0.8, 1.3, 1])
    shape = (70, 90, 56)
    affine[:3, 3] = -(affine[:3, :3] @ (np.array(shape) - 1) / 2)
    r, mu = 25.0, 0.03
    # Each voxel's share of the ball, by sampling: a sharp step would be jagged.
    fine = np.stack(np.meshgrid(*[(np.arange(4) + 0.5) / 4 - 0.5] * 3, indexing="ij"), -1).reshape(-1, 3)
    centres = grid_mm(shape, affine)
    share = np.mean([np.linalg.norm(centres + affine[:3, :3] @ f, axis=-1) < r for f in fine], axis=0)
    origins, directions = rays(400, 0, 150)
    found = Projector(Volume(mu * share, affine)).line_integrals(origins, directions)
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    b = np.linalg.norm(np.cross(origins, unit), axis=1)
    expected = 2 * mu * np.sqrt(np.maximum(r * r - b * b, 0))
    inside = b < 0.9 * r
    assert inside.sum() > 100 and np.abs(found - expected)[inside].max() < 0.02 * 2 * mu * r
    assert np.abs((found - expected)[inside].mean()) < 0.002 * 2 * mu * r
    assert np.abs(found[b > r + 2]).max() == 0


def test_any_volume_against_dense_sampling():
    """Random voxels under a slanting affine; scipy's trilinear samples every 0.02 mm."""
    random = np.random.default_rng(3)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0] @ np.diag([1.5, 2.0, 2.5])
    affine = np.eye(4)
    affine[:3, :3] = turn
    shape = (9, 8, 7)
    affine[:3, 3] = -(turn @ (np.array(shape) - 1) / 2)
    # Smooth, since Joseph's method samples once a layer.
    data = np.zeros(shape)
    data[2:-2, 2:-2, 2:-2] = random.uniform(0.01, 0.05, (5, 4, 3))
    for axis in range(3):
        data = (np.roll(data, 1, axis) + 2 * data + np.roll(data, -1, axis)) / 4
    origins, directions = rays(60, 1, 40)
    found = Projector(Volume(data, affine)).line_integrals(origins, directions)
    t = np.arange(0, 80, 0.02)
    for k in range(60):
        unit = directions[k] / np.linalg.norm(directions[k])
        ijk = np.linalg.inv(affine)[:3] @ np.c_[origins[k] + t[:, None] * unit, np.ones(len(t))].T
        expected = map_coordinates(data, ijk, order=1, mode="constant").sum() * 0.02
        assert found[k] == pytest.approx(expected, abs=0.02 * data.max() * 20)


def test_only_what_lies_before_the_origin_counts():
    projector = Projector(Volume(np.full((21, 21, 21), 0.1, np.float32), np.eye(4)))
    found = projector.line_integrals(np.array([9.5, 10.0, 10.0]), np.array([[1.0, 0, 0], [-1.0, 0, 0]]))
    assert found == pytest.approx([11 * 0.1, 10 * 0.1], abs=1e-5)  # layers 10 to 20, and 0 to 9


def test_hounsfield_units():
    """Air 0, water as given, bone of 1000 HU twice that; padding far below air is air."""
    hu = np.array([-3000, -1000, 0, 1000], np.int16).reshape(4, 1, 1)
    mu = attenuation_of_hounsfield(Volume(hu, np.eye(4)), 0.019)
    assert mu.data.ravel() == pytest.approx([0, 0, 0.019, 0.038])


def test_a_pixel_averages_light_and_not_attenuation():
    """Half a pixel behind a block: -log of the mean of 1 and exp(-p)."""
    block = np.zeros((41, 41, 41), np.float32)
    block[:, :20] = 0.2
    camera = Camera("PINHOLE", 1, 1, (1000.0, 1000.0, 0.5, 0.5))  # 1 mm at 1000 mm
    pose = Rigid3(np.array([[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]]), np.zeros(3))
    pose = Rigid3(pose.rotation, -pose.rotation @ np.array([1020.0, 19.5, 20.0]))
    p = Projector(Volume(block, np.eye(4))).picture(camera, pose, supersample=4)
    left = Projector(Volume(block, np.eye(4))).line_integrals(pose.center, np.array([[-1000.0, d, 0] for d in
                                                              (-0.375, -0.125, 0.125, 0.375)]))  # fmt: skip
    assert left[0] > 2 * left[-1]
    assert p[0, 0] == pytest.approx(-np.log(np.exp(-left).mean()), rel=1e-2)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    """A ball of water with a core of bone, 2 mm voxels, away from the origin."""
    shape, affine = (40, 40, 40), np.diag([-2.0, 2, 2, 1])
    affine[:3, 3] = (60, 10, -30)
    r = np.linalg.norm(grid_mm(shape, affine) - (affine @ [19.5, 19.5, 19.5, 1])[:3], axis=-1)
    hu = np.where(r < 10, 1000, np.where(r < 30, 0, -1000)).astype(np.int16)
    path = tmp_path_factory.mktemp("ct") / "ct.nii.gz"
    nib.save(nib.Nifti1Image(hu, affine), path)
    return path


def read(path, out, **options):
    return ProjectionsSource(ProjectionsSourceConfig(path=path, **{**SMALL, **options})).read(out, Quiet())


def test_files_poses_and_truth(ct, tmp_path):
    frames = read(ct, tmp_path)
    truth = Truth.load(frames.truth_path)
    assert len(frames) == 4 and truth.volume_path == ct.resolve() and not truth.depth_paths
    centre = np.array([21.0, 49.0, 9.0])
    for k, f in enumerate(frames.frames):
        assert np.array_equal(f.cam_from_world_mm.matrix(), truth.cam_from_world_mm[k].matrix())
        # The middle of the ball is in the middle of the picture: 40 mm of water and 20 mm of bone, white is 10.
        assert f.camera.project(f.cam_from_world_mm.apply(centre[None]))[0] == pytest.approx((20, 16))
        assert np.linalg.norm(f.cam_from_world_mm.center - centre) == pytest.approx(300)
        image = read_any(f.image_path)
        assert image.shape == (32, 40) and abs(int(image[15:17, 19:21].mean()) - 255 * 1.6 / 10) < 2
        assert image[0].max() == 0 and image[:, 0].max() == 0  # the whole volume is in view
    # The source goes round: quarter turns from the front to the patient's left.
    at = np.array([f.cam_from_world_mm.center - centre for f in frames.frames])
    assert at == pytest.approx(300 * np.array([[0, 1, 0], [-1, 0, 0], [0, -1, 0], [1, 0, 0]]), abs=1e-9)
    hidden = read(ct, tmp_path / "hidden", known_poses=False).frames[0]
    assert hidden.camera is None and hidden.cam_from_world_mm is None


def test_what_brightness_means(ct, tmp_path):
    p = read_any(read(ct, tmp_path / "a", white=4.0).frames[0].image_path) / 255 * 4
    light = read_any(read(ct, tmp_path / "t", intensity="transmission").frames[0].image_path) / 255
    assert light == pytest.approx(np.exp(-p), abs=0.01) and light[0, 0] == 1
    saturated = read_any(read(ct, tmp_path / "s", white=1.0).frames[0].image_path)
    assert saturated[16, 20] == 255 and (saturated == 255).mean() > 0.02


def test_noise_is_that_of_photons(ct, tmp_path):
    """Variance of the line integral = 1 / expected photons; the seed decides."""
    options = {"white": 2.0, "image_size_px": (96, 96), "n_views": 3}
    clean = read_any(read(ct, tmp_path / "c", **options).frames[1].image_path) / 255 * 2.0
    noisy = [read_any(read(ct, tmp_path / n, photons=500.0, seed=s, **options).frames[1].image_path) / 255 * 2.0
             for n, s in (("x", 1), ("y", 1), ("z", 2))]  # fmt: skip
    assert np.array_equal(noisy[0], noisy[1]) and not np.array_equal(noisy[0], noisy[2])
    body = clean > 0.5
    z = (noisy[0] - clean)[body] * np.sqrt(500 * np.exp(-clean[body]))
    assert body.sum() > 500 and np.std(z) == pytest.approx(1, abs=0.1)


def test_a_killed_run_goes_on(ct, tmp_path):
    frames = read(ct, tmp_path)
    before = [f.image_path.read_bytes() for f in frames.frames]
    frames.frames[2].image_path.unlink()
    mark = frames.frames[0].image_path.stat().st_mtime_ns
    again = read(ct, tmp_path)
    assert [f.image_path.read_bytes() for f in again.frames] == before
    assert again.frames[0].image_path.stat().st_mtime_ns == mark


def test_volumes_and_options_that_do_not_do(ct, tmp_path):
    with pytest.raises(InputError, match="reaches to the X-ray source"):
        read(ct, tmp_path, distance_mm=30.0)
    for name, value, words in (("mr", 100, "no CT in Hounsfield units"), ("air", -1000, "nothing but air")):
        nib.save(nib.Nifti1Image(np.full((8, 8, 8), value, np.int16), np.eye(4)), tmp_path / f"{name}.nii")
        with pytest.raises(InputError, match=words):
            read(tmp_path / f"{name}.nii", tmp_path / name)
    for bad in ({"elevation_deg": (10, 0)}, {"image_size_px": (4, 40)}, {"n_views": 1}):
        with pytest.raises(ValidationError):
            ProjectionsSourceConfig(path=ct, **bad)

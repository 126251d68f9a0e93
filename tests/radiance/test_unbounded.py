# SPDX-License-Identifier: Apache-2.0
"""Scenes without an end: a floor with points found on it and a wall far behind, in closed form."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import medrecon
from medrecon.errors import StageError
from medrecon.images import write_png
from medrecon.progress import Quiet
from medrecon.radiance import Scene, TrainingConfig, load_field
from medrecon.radiance.contraction import contract, contract_gaussians, spread_edges
from medrecon.radiance.paths import look_at
from medrecon.radiance.train import train
from medrecon.runfolder import RunFolder
from medrecon.types import Camera, Frame, FrameSet, RayBatch, SparseModel

FLOOR, WALL, SIZE = 10.0, 200.0, 32  # how far below the cameras, and a sphere's radius
CAMERA = Camera("SIMPLE_PINHOLE", SIZE, SIZE, (0.6 * SIZE, SIZE / 2, SIZE / 2))


def trace(pose, u, v):
    """(rgb 0..1 [..., 3], z-depth [...]) at pixels: the floor y = FLOOR, or the wall round it."""
    d = CAMERA.unproject(np.stack([u, v], -1)) @ pose.rotation
    o = pose.center
    a, b, c = (d * d).sum(-1), d @ o, o @ o - WALL**2
    wall = (-b + np.sqrt(b * b - a * c)) / a
    t = np.minimum(wall, np.where(d[..., 1] > 1e-9, (FLOOR - o[1]) / np.maximum(d[..., 1], 1e-9), np.inf))
    x = o + t[..., None] * d
    waves = np.where((t < wall)[..., None], np.sin(x[..., [0, 2, 0]] / [4.0, 5.0, 9.0]), np.cos(x / [30.0, 25.0, 40.0]))
    return 0.5 + 0.3 * waves, t


def pixels(supersample=1):
    at = (np.arange(SIZE * supersample) + 0.5) / supersample
    return np.meshgrid(at, at)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Points are found on the floor near the cameras alone."""
    torch.set_num_threads(1)
    folder, frames, poses = tmp_path_factory.mktemp("floor"), [], {}
    for k in range(24):
        at = np.array([25 * np.sin(1.3 * k), 4 * np.cos(2.1 * k), 25 * np.cos(0.9 * k)])
        poses[k] = look_at(at, at + [10 * np.sin(1.9 * k), 4 + 3 * np.cos(1.7 * k), 20], np.array([0.0, -1.0, 0.0]))
        rgb = trace(poses[k], *pixels(3))[0].reshape(SIZE, 3, SIZE, 3, 3).mean((1, 3))
        path = folder / f"{k:06d}.png"
        write_png(path, (255 * rgb).round().astype(np.uint8))
        frames.append(Frame(k, f"{k:06d}", path, SIZE, SIZE, None))
    points = np.random.default_rng(0).uniform([-40, FLOOR, -30], [40, FLOOR, 60], (400, 3))
    tracks = [[k for k in poses if in_view(poses[k], p)] for p in points]
    keep = np.array([len(t) >= 3 for t in tracks])
    seen = [t for t in tracks if len(t) >= 3]
    ids = np.concatenate(seen).astype(np.int64)
    sparse = SparseModel(
        dict.fromkeys(poses, CAMERA), poses, points[keep], np.full((keep.sum(), 3), 128, np.uint8),
        np.full(keep.sum(), 0.3), ids, np.zeros(len(ids), np.int32), np.concatenate([[0], np.cumsum([*map(len, seen)])]),
    )  # fmt: skip
    return FrameSet(tuple(frames), "floor"), sparse.validate()


def in_view(pose, point):
    x, y, z = pose.apply(point[None])[0]
    return z > 1 and max(abs(x), abs(y)) < 0.83 * z


def training(**more):
    return TrainingConfig(**{"iterations": 300, "max_size_px": SIZE, "evaluate_every": 0, "holdout_every": 6, **more})


GRID = {"width": 16, "levels": 4, "log2_size": 12, "finest": 32, "samples": 48, "occupancy_cells": 32,
        "samples_per_batch": 16384, "direction_degree": 0, "appearance_size": 0, "density_shift": 0.0}  # fmt: skip


NET = {"width": 32, "coarse_samples": 12, "fine_samples": 12, "probes": 48, "max_degree": 6, "occupancy_cells": 32,
       "direction_degree": 0, "appearance_size": 0}  # fmt: skip


def look(data, folder, name="mipgrid", **more):
    """Squared errors and z-depths found, true z-depths: [rays] of the held-out pictures."""
    renderer = medrecon.create("renderer", name, **(GRID if name == "mipgrid" else NET))
    train(*data, renderer, training(**more), folder / "stages" / "radiance", 0, "cpu", Quiet())
    field, scene = load_field(RunFolder(folder))
    errors, found, true = [], [], []
    for i in scene.heldout_ids:
        rgb, depth = trace(scene.cam_from_sfm[i], *pixels())
        with torch.no_grad():
            out, quick = field.render(scene.rays(i)), field.render_basic(scene.rays(i))
        assert torch.allclose(quick.rgb, out.rgb, atol=0.02) and torch.allclose(quick.opacity, out.opacity, atol=0.02)
        errors.append(((out.rgb.numpy() - rgb.reshape(-1, 3)) ** 2).mean(-1))
        found.append(out.depth_median.numpy() / scene.field_from_sfm.scale)
        true.append(depth.ravel())
    return [np.concatenate(x) for x in (errors, found, true)]


def test_what_lies_far_behind_the_points_is_seen(tmp_path, data):
    error, found, true = look(data, tmp_path / "far", unbounded=True)
    boxed, _, _ = look(data, tmp_path / "box")
    psnr = lambda e, where: -10 * np.log10(e[where].mean())  # noqa: E731
    far = true > 100
    assert 0.3 < far.mean() < 0.7 and psnr(error, ~far) > 18
    assert psnr(error, far) > 16 and psnr(error, far) > psnr(boxed, far) + 6
    # The wall is 8 times as far as the cameras are apart: how far, little says but that it is far.
    assert 0.3 < np.median((found / true)[far]) < 1.5


def test_a_network_sees_it_too(tmp_path, data):
    error, _, true = look(data, tmp_path, "mipnerf", unbounded=True, iterations=200, rays_per_batch=256)
    assert -10 * np.log10(error[true > 100].mean()) > 15.5  # black would be 6.1, the mean colour 14.4


def some_rays(n, reach):
    generator = torch.Generator().manual_seed(5)
    draw = lambda *size: torch.rand(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    rays = RayBatch(
        draw(n, 3) - 0.5, draw(n, 3) - 0.5, 0.02 * draw(n, 1), 0.01 * draw(n, 1) + 1e-3, reach * (draw(n, 1) + 0.1),
        torch.zeros(n, dtype=torch.int64),
    )  # fmt: skip
    return rays


def test_contracted_gaussians():
    """Against J cov J^T with the Jacobian by autograd and the covariance of mip-NeRF's equations 7 and 8."""
    rays = some_rays(12, 9.0)
    t = spread_edges(rays.near, rays.far, 6)
    assert torch.allclose(t[:, :1], rays.near) and torch.allclose(t[:, -1:], rays.far) and (t.diff() > 0).all()
    mean, var, radial = contract_gaussians(rays, t)
    far = 0
    for n in range(12):
        d = rays.directions[n]
        for k in range(6):
            mu, h = (t[n, k] + t[n, k + 1]) / 2, (t[n, k + 1] - t[n, k]) / 2
            below = 3 * mu**2 + h**2
            along = h**2 / 3 - 4 / 15 * h**4 * (12 * mu**2 - h**2) / below**2
            across = rays.radii[n, 0] ** 2 * (mu**2 / 4 + 5 / 12 * h**2 - 4 / 15 * h**4 / below)
            cov = along * torch.outer(d, d)
            cov += across * (torch.eye(3, dtype=torch.float64) - torch.outer(d, d) / (d @ d))
            middle = rays.origins[n] + (mu + 2 * mu * h**2 / below) * d
            jacobian = torch.autograd.functional.jacobian(lambda x: contract(x[None])[0][0], middle)
            assert torch.allclose(mean[n, k], contract(middle[None])[0][0], atol=1e-12)
            assert torch.allclose(var[n, k], (jacobian @ cov @ jacobian.T).diagonal(), rtol=1e-6, atol=1e-14)
            assert torch.isclose(radial[n, k], 1 / (middle @ middle).clamp(min=1))
            far += bool(middle.norm() > 1)
    assert 10 < far < 60


@pytest.mark.parametrize("name", ["nerf", "mipnerf"])
def test_within_the_ball_nothing_is_contracted(data, name):
    scene = Scene.from_sparse(*data, training(unbounded=True))
    far, near = (medrecon.create("renderer", name, **NET) for _ in range(2))
    far.setup(scene, scene.train_ids, 0)
    near.setup(replace(scene, unbounded=False), scene.train_ids, 0)
    rays = some_rays(30, 0.2)
    rays = RayBatch(
        *(x.float() for x in (rays.origins, rays.directions, rays.radii, rays.near, rays.far)), rays.frame_ids
    )
    t = spread_edges(rays.near, rays.far, 8)
    inside = torch.rand(30, 8, generator=torch.Generator().manual_seed(0)) < 0.8
    view = torch.zeros(30, 3)
    with torch.no_grad():
        for a, b in zip(*(f.composite(f.networks[0], rays, t, inside, view) for f in (far, near))):
            assert torch.allclose(a, b, atol=1e-5)
        assert torch.allclose(far.density(rays.origins), far._raw_density(rays.origins), rtol=1e-4)


def test_the_scene_keeps_that_it_is_unbounded(tmp_path, data):
    scene = Scene.from_sparse(*data, training(unbounded=True))
    scene.save(tmp_path / "scene.json")
    assert Scene.load(tmp_path / "scene.json").unbounded and not Scene.from_sparse(*data, training()).unbounded
    rays = scene.rays(scene.train_ids[0])
    assert torch.equal(scene.clip_to_bounds(rays).far, rays.far)
    reach = rays.far[0] / scene.field_from_sfm.scale
    assert reach > 150 and scene.background == "none"


def test_nothing_is_known_to_be_empty_but_the_corners_of_the_cube(data):
    scene = Scene.from_sparse(*data, training(unbounded=True))
    field = medrecon.create("renderer", "mipgrid", **GRID)
    field.setup(scene, scene.train_ids, 0)
    points = torch.randn(500, 3) * torch.logspace(-1, 3, 500)[:, None]
    assert field.occupancy.contains(points).all()
    assert float(contract(points)[0].norm(dim=-1).max()) < 2
    with torch.no_grad():
        density = field.density(points)
    # The start is even in the contracted space: what it weighs in space falls with the square of the distance.
    r = points.norm(dim=-1).clamp(min=1)
    assert torch.allclose(density * r**2, torch.full_like(r, float(density[0])), rtol=0.05)


def test_a_renderer_of_boxes_says_so(tmp_path, data):
    renderer = medrecon.create("renderer", "xray")
    with pytest.raises(StageError, match="xray renders what lies in a box"):
        train(*data, renderer, training(unbounded=True), tmp_path, 0, "cpu", Quiet())
    plain = replace(Scene.from_sparse(*data, training(unbounded=True)), unbounded=False)
    assert plain.clip_to_bounds(plain.rays(0)).far.max() < plain.near_far[0][1]

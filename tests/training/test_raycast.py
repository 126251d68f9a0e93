# SPDX-License-Identifier: Apache-2.0
"""The ray caster against closed forms, against marching without any leaps, and against the tracer of rendered depth."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from medrecon.training.raycast import Ramp, VolumeCaster, empty_blocks, sample_volume, smoothed

SPACING = (1.5, 1.0, 2.0)


def ball(radius_mm=22.0, shape=(50, 70, 40), spacing=SPACING, soft_mm=6.0):
    """uint8: 255 inside, 0 outside, falling linearly over ``soft_mm``; and its centre in mm."""
    centre = (np.array(shape) - 1) * spacing / 2
    r = np.linalg.norm(
        np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing)), indexing="ij"), -1) - centre, axis=-1
    )
    return np.clip(127.5 + (radius_mm - r) / soft_mm * 255, 0, 255).round().astype(np.uint8), centre


def camera(eye, target, focal=90.0, size=(48, 36)):
    z = (target - eye) / np.linalg.norm(target - eye)
    x = np.cross(z, [0.1, 0.2, 1.0])
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ eye
    k = np.array([focal, focal * 1.1, size[0] / 2 + 1.5, size[1] / 2 - 2.0])
    return k, pose, size


def rays(k, pose, size):
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    cam = np.stack([(x - k[2]) / k[0], (y - k[3]) / k[1], np.ones_like(x)], -1)
    return -pose[:3, :3].T @ pose[:3, 3], cam @ pose[:3, :3]


def render(caster, k, pose, size):
    buffer = caster.render(
        torch.tensor(k, dtype=torch.float32)[None], torch.tensor(pose, dtype=torch.float32)[None], size
    )
    return tuple(t[0].numpy() for t in (buffer.value, buffer.normal, buffer.depth, buffer.opacity))


def test_a_ball_has_the_depth_and_the_normals_of_a_ball():
    volume, centre = ball()
    # Nearly a step at the value of the ball's radius: a ray is half spent 0.1 mm behind it.
    caster = VolumeCaster(torch.from_numpy(volume), SPACING, Ramp(127.0, 128.0, 0.999), step_mm=0.25)
    k, pose, size = camera(centre + [90.0, -60.0, 35.0], centre + [3.0, 2.0, -4.0])
    value, normal, depth, opacity = render(caster, k, pose, size)
    eye, direction = rays(k, pose, size)
    away = eye - centre
    a, b, c = (direction**2).sum(-1), 2 * direction @ away, away @ away - 22.0**2
    inside = b * b - 4 * a * c
    truth = np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / (2 * a), 0)
    # Grazing rays hang on tenths of a mm of the ball's radius.
    facing = np.where(
        truth > 0, -np.einsum("...i,...i", direction, away + truth[..., None] * direction) / (22.0 * np.sqrt(a)), 0
    )
    core = facing > 0.35
    assert core.sum() > 250 and (depth[truth == 0] == 0).mean() > 0.98
    assert np.abs(depth - truth)[core].max() < 0.5 and np.abs(depth - truth)[core].mean() < 0.2
    outward = (away + truth[..., None] * direction) / 22.0 @ pose[:3, :3].T
    angle = np.degrees(np.arccos(np.clip((outward * normal.transpose(1, 2, 0)).sum(-1), -1, 1)))
    assert angle[core].max() < 3.0 and np.median(angle[core]) < 0.7
    assert (opacity[core] > 0.98).all() and (value[core] > 120).all() and (value[opacity == 0] == 0).all()


def test_a_tilted_plane_has_its_depth():
    shape, spacing, n = (40, 40, 40), (1.0, 1.0, 1.0), np.array([0.6, 0.0, 0.8])
    grid = np.stack(np.meshgrid(*(np.arange(s) for s in shape), indexing="ij"), -1)
    volume = np.clip(127.5 + 20 * (grid @ n - 25.0), 0, 255).round().astype(np.uint8)
    caster = VolumeCaster(torch.from_numpy(volume), spacing, Ramp(127.0, 128.0, 0.9999), step_mm=0.1)
    k, pose, size = camera(np.array([2.0, 17.0, -30.0]), np.array([18.0, 20.0, 22.0]), focal=140.0)
    _, normal, depth, _ = render(caster, k, pose, size)
    eye, direction = rays(k, pose, size)
    truth = (25.0 - eye @ n) / (direction @ n)
    hit = depth > 0
    point = eye + truth[..., None] * direction
    inner = ((point > 2) & (point < 37)).all(-1)
    assert inner.sum() > 400 and hit[inner].all()
    assert np.abs(depth - truth)[inner].max() < 0.15  # half of the light is lost 0.08 mm behind it
    expected = -(n @ pose[:3, :3].T)
    assert np.degrees(np.arccos((normal.transpose(1, 2, 0)[inner] @ expected).clip(-1, 1))).max() < 2.5


def test_leaps_over_nothing_change_nothing():
    """A cloud of blobs, half transparent, against plain marching with scipy at the same samples' spacing."""
    rng = np.random.default_rng(0)
    cloud = ndimage.gaussian_filter(rng.standard_normal((60, 50, 40)), 3)
    volume = np.clip(cloud / cloud.std() * 90, 0, 255).astype(np.uint8)
    volume[20:40] = 0
    spacing, ramp, step = (1.0, 1.2, 0.9), Ramp(60.0, 200.0, 0.2), 0.05
    caster = VolumeCaster(torch.from_numpy(volume), spacing, ramp, step_mm=step)
    k, pose, size = camera(np.array([-50.0, 90.0, 60.0]), np.array([28.0, 30.0, 18.0]), size=(12, 9), focal=26.0)
    value, _, depth, opacity = render(caster, k, pose, size)
    eye, direction = rays(k, pose, size)
    t = np.arange(20.0, 170.0, 0.04)
    points = (eye + t[:, None, None, None] * direction) / spacing
    values = ndimage.map_coordinates(volume.astype(np.float64), points.transpose(3, 0, 1, 2), order=1, cval=0.0)
    inside = ((points >= 0) & (points <= np.array(volume.shape) - 1)).all(-1)
    alpha = np.where(inside, ramp.alpha * np.clip((values - ramp.low) / (ramp.high - ramp.low), 0, 1), 0)
    length = np.linalg.norm(direction, axis=-1)
    light = np.exp(np.cumsum(np.log1p(-alpha) * 0.04 * length, 0))
    truth = np.where(light[-1] < 0.5, t[(light < 0.5).argmax(0)], 0)
    ends = light[-1] > 0.03  # a ray stops where almost nothing is left
    assert (truth > 0).sum() > 25 and (truth == 0).sum() > 25
    np.testing.assert_allclose(opacity[ends], 1 - light[-1][ends], atol=0.005)
    both = (truth > 0) & (depth > 0)
    assert ((truth > 0) != (depth > 0)).mean() < 0.02
    assert np.abs(depth - truth)[both].max() < 0.15
    weight = -np.diff(light, axis=0, prepend=1.0)
    mean = (weight * values).sum(0) / np.maximum(weight.sum(0), 1e-9)
    seen = ends & (opacity > 0.1)
    np.testing.assert_allclose(value[seen], mean[seen], rtol=0.02)


def test_empty_blocks_against_brute_force():
    rng = np.random.default_rng(1)
    visible = rng.random((21, 34, 18)) > 0.9995
    got = empty_blocks(torch.from_numpy(visible)).numpy()
    blocks = np.zeros(got.shape, bool)
    for i, j, k in np.argwhere(visible):  # a voxel is a corner of the cells before and after it
        for c in np.ndindex(2, 2, 2):
            cell = (np.array([i, j, k]) - c) // 4
            if (cell >= 0).all() and (cell < got.shape).all():
                blocks[tuple(cell)] = True
    every = np.argwhere(blocks)
    for at in np.ndindex(got.shape):
        assert got[at] == np.abs(every - at).max(1).min()
    assert (empty_blocks(torch.zeros(9, 9, 9, dtype=torch.bool)) > 0).all()


def test_samples_and_smoothing_against_scipy():
    rng = np.random.default_rng(2)
    volume = rng.integers(0, 256, (7, 9, 11)).astype(np.float32)
    points = rng.uniform(-1, 12, (40, 3, 3)).astype(np.float32)
    truth = ndimage.map_coordinates(volume, points.reshape(-1, 3).T, order=1, mode="nearest").reshape(40, 3)
    data = torch.from_numpy(volume)[None, None]
    np.testing.assert_allclose(sample_volume(data, torch.from_numpy(points)).numpy(), truth, atol=2e-3)
    kernel = np.array([0.25, 0.5, 0.25])
    for axis in range(3):
        volume = ndimage.correlate1d(volume, kernel, axis, mode="nearest")
    np.testing.assert_allclose(smoothed(data)[0, 0].numpy(), volume, atol=1e-3)


def test_a_camera_inside_sees_the_wall_from_within():
    volume, centre = ball()
    caster = VolumeCaster(torch.from_numpy(255 - volume), SPACING, Ramp(127.0, 128.0, 0.999), step_mm=0.25)
    k, pose, size = camera(centre, centre + [10.0, 3.0, 2.0], focal=40.0)
    _, normal, depth, _ = render(caster, k, pose, size)
    _, direction = rays(k, pose, size)
    assert np.abs(depth - 22.0 / np.linalg.norm(direction, axis=-1)).max() < 0.5
    towards_eye = -direction @ pose[:3, :3].T / np.linalg.norm(direction, axis=-1)[..., None]
    assert (normal.transpose(1, 2, 0) * towards_eye).sum(-1).min() > 0.99


@pytest.mark.parametrize("preset", ["bone", "skin"])
def test_depth_of_a_chest_as_the_tracer_of_rendered_views_finds_it(preset):
    from medrecon.assets.demo import builtin_volume
    from medrecon.ingest.transfer_functions import TransferFunction
    from medrecon.ingest.view_depth import DepthTracer
    from medrecon.ingest.volume import canonical, load_volume
    from medrecon.types import Camera, Rigid3, Volume

    chest = canonical(load_volume(builtin_volume("chest-ct")))
    every = np.maximum(1, np.round(4.0 / np.array(chest.spacing_mm))).astype(int)
    data, spacing = np.asarray(chest.data)[:: every[0], :: every[1], :: every[2]], chest.spacing_mm * every
    volume = np.clip((data + 1000.0) / 2500 * 255, 0, 255).round().astype(np.uint8)
    low, high = {"bone": (115.0, 128.0), "skin": (51.0, 77.0)}[preset]
    points = np.array([(0, 1, 1, 1, 0), (low, 1, 1, 1, 0), (high, 1, 1, 1, 0.9), (256, 1, 1, 1, 0.9)], np.float64)
    extent = (np.array(volume.shape) - 1) * spacing
    k, pose, size = camera(extent / 2 + [250.0, 500.0, 120.0], extent / 2, focal=52.0, size=(48, 36))
    world = Volume(volume.astype(np.int16), np.diag([*spacing, 1.0]), modality="CT")
    tracer = DepthTracer(world, TransferFunction(points), step_mm=0.5)
    truth = tracer.depth(Camera("PINHOLE", *size, tuple(k)), Rigid3(pose[:3, :3], pose[:3, 3]))
    caster = VolumeCaster(torch.from_numpy(volume), tuple(spacing), Ramp(low, high, 0.9), step_mm=0.5)
    _, _, depth, _ = render(caster, k, pose, size)
    both = (truth > 0) & (depth > 0)
    assert both.sum() > 300 and ((truth > 0) == (depth > 0)).mean() > 0.985
    error = np.abs(depth - truth)[both]
    assert np.median(error) < 0.15 and (error < 1.0).mean() > 0.97

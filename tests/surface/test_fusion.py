# SPDX-License-Identifier: Apache-2.0
"""Fused depth maps against spheres, planes and walls in closed form. Lengths in field units."""

import numpy as np
import pytest

from medrecon.progress import Quiet
from medrecon.radiance.paths import look_at
from medrecon.radiance.scene import pixel_directions
from medrecon.surface.cleanup import face_areas, vertex_normals
from medrecon.surface.depth_views import DepthView
from medrecon.surface.fusion import fuse
from medrecon.surface.measure import open_reason
from medrecon.types import Camera

PINHOLE = Camera("SIMPLE_PINHOLE", 80, 72, (110.0, 40.0, 36.0))
BENT = Camera("OPENCV", 80, 72, (110.0, 108.0, 41.0, 35.0, -0.15, 0.05, 0.003, -0.002))
LOW, HIGH = np.array([-0.9, -0.8, -0.85]), np.array([0.9, 0.8, 0.85])
RESOLUTION = 41
STEP = 1.8 / (RESOLUTION - 1)


def view(at, trace, camera=PINHOLE, spread=0.0, target=(0, 0, 0)):
    """A depth map in closed form. ``trace(origin, directions)`` gives t [...] (NaN: nothing) and normals [..., 3]."""
    at = np.asarray(at, float)
    pose = look_at(at, np.asarray(target, float), np.array([0.1, 0.2, 1.0]))
    directions = pixel_directions(camera)[0]
    world = directions @ pose.rotation
    t, normal = trace(at, world)
    hit = t > 0
    cosine = np.abs((world * normal).sum(-1)) / np.linalg.norm(world, axis=-1)
    full = np.full(t.shape, spread, np.float32)
    depth = np.where(hit, t, 0).astype(np.float32)
    return DepthView(-1, camera, pose, depth, full, hit.astype(np.float32), np.where(hit, cosine, 0).astype(np.float32))


def sphere(radius=0.6):
    def trace(o, d):
        a, b, c = (d * d).sum(-1), d @ o, o @ o - radius**2
        under = b * b - a * c
        t = np.where(under > 0, (-b - np.sqrt(np.maximum(under, 0))) / a, np.nan)
        return t, (o + t[..., None] * d) / radius

    return trace


def plane(z=0.0, half=2.0):
    """The square |x|, |y| < half at height z."""

    def trace(o, d):
        t = (z - o[2]) / np.where(np.abs(d[..., 2]) > 1e-9, d[..., 2], np.nan)
        p = o + t[..., None] * d
        inside = (t > 0) & (np.abs(p[..., :2]) < half).all(-1)
        return np.where(inside, t, np.nan), np.broadcast_to([0.0, 0.0, 1.0], d.shape)

    return trace


def around(n, distance=2.4):
    k = np.arange(n) + 0.5
    phi, theta = np.arccos(1 - 2 * k / n), np.pi * (1 + 5**0.5) * k
    return distance * np.stack([np.cos(theta) * np.sin(phi), np.sin(theta) * np.sin(phi), np.cos(phi)], 1)


def mesh_of(views, truncation=4.0, min_weight=0.5, resolution=RESOLUTION):
    volume = fuse(views, LOW, HIGH, resolution, truncation, Quiet())
    return volume, *volume.surface(min_weight)


@pytest.mark.parametrize("camera", [PINHOLE, BENT], ids=lambda c: c.model)
def test_a_sphere_seen_from_all_around(camera):
    volume, vertices, faces = mesh_of([view(c, sphere(), camera) for c in around(16)])
    assert volume.step == pytest.approx(STEP)
    error = np.linalg.norm(vertices[np.unique(faces)], axis=1) - 0.6
    assert np.abs(error).mean() < 0.15 * STEP and np.abs(error).max() < 0.6 * STEP
    assert face_areas(vertices, faces).sum() == pytest.approx(4 * np.pi * 0.36, rel=0.03)
    assert not open_reason(faces)
    used = np.unique(faces)
    assert ((vertex_normals(vertices, faces) * vertices).sum(1)[used] > 0).all()  # outwards
    assert np.abs(volume.values).max() <= 1 and (volume.weights >= 0).all()


def test_inside_is_negative_and_outside_positive():
    volume, _, _ = mesh_of([view(c, sphere()) for c in around(16)])
    index = np.argwhere(volume.weights > 3)
    true = np.linalg.norm(LOW + STEP * index, axis=1) - 0.6
    clear = np.abs(true) > 0.5 * STEP
    assert clear.sum() > 1000
    assert (np.sign(volume.values[tuple(index.T)]) == np.sign(true))[clear].mean() > 0.999


def test_the_unseen_back_is_not_made_up():
    front = [c for c in around(40) if c[2] > 0.8]
    _, vertices, faces = mesh_of([view(c, sphere()) for c in front])
    used = vertices[np.unique(faces)]
    error = np.abs(np.linalg.norm(used, axis=1) - 0.6)
    assert error.mean() < 0.15 * STEP and error.max() < 4 * STEP  # at the rim, at most the truncation
    # A camera at height h sees nothing of the sphere below the plane of its tangents.
    assert used[:, 2].max() > 0.58 and used[:, 2].min() > -0.6 * 0.95
    lowest = min(_lowest_tangent(c) for c in front)
    assert used[:, 2].min() > lowest - 2 * STEP


def _lowest_tangent(centre, radius=0.6):
    """Smallest z of the circle in which the camera's rays touch the sphere."""
    d = np.linalg.norm(centre)
    axis, away, r = centre / d, radius**2 / d, radius * np.sqrt(1 - (radius / d) ** 2)
    return away * axis[2] - r * np.sqrt(1 - axis[2] ** 2)


@pytest.mark.parametrize("z", [0.0, 0.0071, -0.0123])
def test_a_sheet_seen_from_one_side_is_one_sheet(z):
    eyes = [(0.3 * np.cos(a), 0.3 * np.sin(a), 2.0) for a in np.linspace(0, 5, 6)]
    _, vertices, faces = mesh_of([view(c, plane(z)) for c in eyes], min_weight=0.0)
    used = vertices[np.unique(faces)]
    assert np.abs(used[:, 2] - z).max() < 0.05 * STEP
    normals = vertex_normals(vertices, faces)[np.unique(faces)]
    assert normals[:, 2].min() > 0.99  # towards the cameras, nowhere a back
    assert len(np.unique(used[:, :2].round(6), axis=0)) == len(used)  # every place once
    assert face_areas(vertices, faces).sum() > 1.0


def test_a_thin_wall_seen_from_both_sides_keeps_both():
    half = 1.25 * STEP
    up = [view((0.4 * np.cos(a), 0.4 * np.sin(a), 2.0), plane(half, 0.5)) for a in np.linspace(0, 5, 5)]
    down = [view((0.4 * np.cos(a), 0.4 * np.sin(a), -2.0), plane(-half, 0.5)) for a in np.linspace(0, 5, 5)]
    _, vertices, faces = mesh_of(up + down)
    used = vertices[np.unique(faces)]
    middle = used[(np.abs(used[:, :2]) < 0.4).all(1)]
    assert np.abs(np.abs(middle[:, 2]) - half).max() < 0.35 * STEP
    top = middle[:, 2] > 0
    assert 0.4 < top.mean() < 0.6


def test_vague_depths_are_outvoted_by_sharp_ones():
    eyes = [(0.3 * np.cos(a), 0.3 * np.sin(a), 2.0) for a in np.linspace(0, 5, 6)]
    right = [view(c, plane(0.0, 0.6)) for c in eyes[:3]]
    wrong = [view(c, plane(2 * STEP, 0.6), spread=12 * STEP) for c in eyes[3:]]
    surfaces = []
    for views in (right + wrong, right + [view(c, plane(2 * STEP, 0.6)) for c in eyes[3:]]):
        _, vertices, faces = mesh_of(views)
        used = vertices[np.unique(faces)]
        surfaces.append(np.median(used[(np.abs(used[:, :2]) < 0.3).all(1), 2]))
    # Where the weighted distances cancel, in voxels: z = w (2 - z) fade^2; a spread of 3 truncations leaves w = 1 / 10.
    for found, w in zip(surfaces, (0.1, 1.0)):
        z = np.linspace(0, 2, 20001)
        balance = z - w * (2 - z) * ((4 - (2 - z)) / 3.5) ** 2
        assert found == pytest.approx(z[np.abs(balance).argmin()] * STEP, abs=0.1 * STEP)


def test_views_that_look_through_a_ghost_empty_it():
    ghost = lambda o, d: sphere(0.15)(o - np.array([0, 0, 0.5]), d)  # noqa: E731
    floor = plane(-0.4)

    def both(o, d):
        (t, n), (tf, nf) = ghost(o, d), floor(o, d)
        first = np.where(np.isnan(t), np.inf, t) < np.where(np.isnan(tf), np.inf, tf)
        return np.where(first, t, tf), np.where(first[..., None], n, nf)

    eyes = [(0.8 * np.cos(a), 0.8 * np.sin(a), 2.2) for a in np.linspace(0, 5.5, 8)]
    seen_by_all = mesh_of([view(c, both) for c in eyes])
    seen_by_one = mesh_of([view(eyes[0], both)] + [view(c, floor) for c in eyes[1:]])
    high = [v[np.unique(f)][:, 2].max() for _, v, f in (seen_by_all, seen_by_one)]
    assert high[0] > 0.5 and high[1] < -0.4 + STEP


def test_transparent_rays_empty_what_they_cross():
    nothing = lambda o, d: (np.full(d.shape[:-1], np.nan), np.zeros(d.shape))  # noqa: E731
    solid, through = view((0, 0.1, 2.0), sphere(0.3)), [view((0.2 * k, 2.0, 0.3), nothing) for k in range(4)]
    assert len(mesh_of([solid])[2]) > 100
    assert len(mesh_of([solid, *through])[2]) == 0


def test_a_place_that_no_view_shows_is_empty_of_everything():
    away = view((0, 0, 3.0), plane(-0.2), target=(0, 0, 6.0))  # looks the other way
    volume, vertices, faces = mesh_of([away])
    assert not volume.weights.any() and not len(faces) and vertices.shape == (0, 3)

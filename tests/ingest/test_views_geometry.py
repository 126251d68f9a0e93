# SPDX-License-Identifier: Apache-2.0
"""Pictures, depth and poses must tell one story: projected points land on their pixels, whatever the affine."""

import numpy as np
import pytest

from medrecon.ingest.transfer_functions import TransferFunction
from medrecon.ingest.truth_surface import isosurface
from medrecon.ingest.view_depth import DepthTracer
from medrecon.ingest.view_paths import fly_through, look_at, orbit
from medrecon.ingest.volume import with_border
from medrecon.ingest.volume_renderer import VolumeRenderer
from medrecon.types import Camera, Volume

CAMERA = Camera("PINHOLE", 200, 150, (260.0, 260.0, 100.0, 75.0))
FLAT = TransferFunction(  # unshaded white where the value is above 400
    np.array([(0, 1, 1, 1, 0.0), (300, 1, 1, 1, 0.0), (500, 1, 1, 1, 1.0), (1000, 1, 1, 1, 1.0)]), ambient=1, diffuse=0
)


def _rotation(axis, degrees):
    axis = np.array(axis, float) / np.linalg.norm(axis)
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def _affine(columns, shape, centre=(12.0, -35.0, 7.0)):
    affine = np.eye(4)
    affine[:3, :3] = columns
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


SHAPE = (90, 70, 44)
AFFINES = {
    "ras": np.diag([0.8, 0.9, 1.6]),
    "las left-handed": np.diag([-0.8, 0.9, 1.6]),
    "permuted": np.array([[0, 0, -1.6], [0.8, 0, 0], [0, 0.9, 0]]).T,
    "oblique": _rotation((1, 2, 0.5), 25) @ np.diag([0.8, 0.9, 1.6]),
    "oblique flipped": _rotation((0.2, -1, 2), 65) @ np.diag([0.8, -0.9, 1.6]),
    "tilted gantry": np.diag([0.8, 0.9, 1.6]) @ np.array([[1, 0, 0], [0, 1, 0.3], [0, 0, 1.0]]),
}


def _world(volume_affine, shape):
    ijk = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return ijk @ volume_affine[:3, :3].T + volume_affine[:3, 3]


def _balls(affine, centres, radius):
    """Values fall linearly through 400 at the radius, 150 per mm, so that trilinear interpolation has no staircase."""
    distance = np.min([np.linalg.norm(_world(affine, SHAPE) - c, axis=-1) for c in centres], 0)
    return Volume(np.clip(400 + 150 * (radius - distance), 0, 1000).astype(np.float32), affine)


def _poses():
    views = [((0, 190, 30), (0, 0, 1)), ((-150, -120, 60), (0, 0, 1)), ((40, 60, 180), (0.3, 1, 0))]
    centre = np.array((12.0, -35.0, 7.0))
    return [look_at(centre + eye, centre + (3, -2, 4), np.array(up, float)) for eye, up in views]


@pytest.mark.parametrize("name", AFFINES)
def test_blobs_land_where_they_project(name):
    affine = _affine(AFFINES[name], SHAPE)
    centres = np.array([(30, 25, 12), (60, 20, 20), (45, 50, 33), (70, 52, 14)]) @ affine[:3, :3].T + affine[:3, 3]
    volume = _balls(affine, centres, 3.0)
    renderer, tracer = VolumeRenderer(volume, FLAT, CAMERA, supersample=2), DepthTracer(volume, FLAT)
    checked = 0
    for pose in _poses():
        opacity, depth = renderer.render(pose)[..., 3], tracer.depth(CAMERA, pose)
        in_camera = pose.apply(centres)
        xy = CAMERA.project(in_camera)
        y, x = np.mgrid[: CAMERA.height_px, : CAMERA.width_px] + 0.5
        for c, (u, v) in enumerate(xy):
            apart = np.delete(np.linalg.norm(xy - xy[c], axis=1), c).min()
            if apart < 14:  # blobs that overlap in this view have no centroid of their own
                continue
            near = np.hypot(x - u, y - v) < 7
            weight = opacity[near]
            assert weight.sum() > 10, "the blob is not there"
            centroid = np.array([(x[near] * weight).sum(), (y[near] * weight).sum()]) / weight.sum()
            assert np.abs(centroid - (u, v)).max() < 0.15
            # The nearest point of the ball along the ray through its middle.
            expected = in_camera[c, 2] * (1 - 3.0 / np.linalg.norm(in_camera[c]))
            assert abs(depth[int(v), int(u)] - expected) < 0.8  # the smallest spacing
            assert (depth[near] > 0).sum() == pytest.approx((opacity[near] > 0.5).sum(), abs=6)
            checked += 1
    assert checked >= 8


@pytest.mark.parametrize("name", ["ras", "oblique flipped", "tilted gantry"])
def test_depth_of_a_ball_is_the_ball(name):
    """Every depth, put back into the world, lies on the analytic sphere."""
    affine = _affine(AFFINES[name], SHAPE)
    centre, radius = np.array((12.0, -35.0, 7.0)), 15.0
    volume = _balls(affine, [centre], radius)
    for pose in _poses():
        depth = DepthTracer(volume, FLAT).depth(CAMERA, pose)
        v, u = np.nonzero(depth)
        points = pose.inverse().apply(CAMERA.unproject(np.stack([u, v], -1) + 0.5) * depth[v, u, None])
        error = np.linalg.norm(points - centre, axis=1) - radius
        assert len(error) > 500
        assert abs(np.median(error)) < 0.4 and np.percentile(np.abs(error), 99) < 1.2
        assert np.linalg.norm(points - centre, axis=1).max() < radius + 0.7


def test_depth_agrees_between_views():
    """A point seen from A, carried into B, is at B's own depth there unless something in B stands before it."""
    affine = _affine(AFFINES["oblique"], SHAPE)
    centre = np.array((12.0, -35.0, 7.0))
    volume = _balls(affine, centre + np.array([(-8, 0, 2), (9, 5, -3), (0, -7, 8.0)]), 8.0)
    tracer = DepthTracer(volume, FLAT)
    a = look_at(centre + (20, 180, 30), centre, np.array([0, 0, 1.0]))
    b = look_at(centre + (-40, 170, 60), centre, np.array([0, 0, 1.0]))
    depth_a, depth_b = tracer.depth(CAMERA, a), tracer.depth(CAMERA, b)
    v, u = np.nonzero(depth_a)
    in_b = (b @ a.inverse()).apply(CAMERA.unproject(np.stack([u, v], -1) + 0.5) * depth_a[v, u, None])
    xy = np.floor(CAMERA.project(in_b)).astype(int)
    seen = depth_b[xy[:, 1], xy[:, 0]]
    difference = in_b[:, 2] - seen
    assert (seen > 0).mean() > 0.97
    assert np.median(np.abs(difference)) < 0.25  # pixels are 0.7 mm wide here and surfaces slope
    assert (difference < -2.0).mean() < 0.01  # nothing of A floats before B's surface


def test_picture_and_depth_show_the_same_outline():
    affine = _affine(AFFINES["las left-handed"], SHAPE)
    centre = np.array((12.0, -35.0, 7.0))
    volume = _balls(affine, centre + np.array([(-15, 0, 9), (16, 5, -5.0)]), 9.0)
    for pose in _poses():
        opacity = VolumeRenderer(volume, FLAT, CAMERA, supersample=3).render(pose)[..., 3]
        seen = DepthTracer(volume, FLAT).depth(CAMERA, pose) > 0
        assert seen.sum() > 200
        assert (seen != (opacity > 0.5)).sum() < 0.05 * seen.sum()


def test_depth_skips_no_thin_sheet():
    """Sphere tracing must not jump over a sheet one voxel thick, at any angle."""
    data = np.zeros((80, 80, 80), np.float32)
    data[:, 40, :] = 1000
    volume = Volume(data, _affine(np.eye(3), data.shape, (0, 0, 0)))
    plane = 40 - 39.5
    for eye in [(0, 100, 0), (30, 120, 55), (-60, 70, -20), (5, -140, 10)]:
        pose = look_at(np.array(eye, float), np.array([0, plane, 0]), np.array([0, 0, 1.0]))
        camera = Camera("PINHOLE", 64, 64, (200.0, 200.0, 32.0, 32.0))
        depth = DepthTracer(volume, FLAT).depth(camera, pose)
        assert (depth > 0).all()
        y, x = np.mgrid[:64, :64] + 0.5
        points = pose.inverse().apply(camera.unproject(np.stack([x, y], -1)) * depth[..., None])
        assert np.abs(points[..., 1] - plane).max() < 1.2


def test_lights_stay_or_follow():
    affine = _affine(np.eye(3), (60, 60, 60), (0, 0, 0))
    distance = np.linalg.norm(_world(affine, (60, 60, 60)), axis=-1)
    volume = Volume(np.clip(400 + 150 * (20 - distance), 0, 1000).astype(np.float32), affine)
    lit = TransferFunction(FLAT.points, ambient=0.0, diffuse=1.0)
    camera = Camera("PINHOLE", 96, 96, (200.0, 200.0, 48.0, 48.0))
    front, back = orbit(np.zeros(3), 150, 2, elevation_deg=(0, 0))
    head = VolumeRenderer(volume, lit, camera, light="headlight")
    a, b = head.render(front)[..., 0], head.render(back)[..., 0]
    assert np.abs(a - b).mean() < 0.01 and a[48, 48] > 0.9 and a[48, 48] > a[48, 22] + 0.2
    fixed = VolumeRenderer(volume, lit, camera, light="fixed")
    # One world point, two cameras close to each other: with fixed lights its colour does not change.
    pose_a, pose_b = orbit(np.zeros(3), 150, 24, elevation_deg=(0, 0))[:2]
    a, b = fixed.render(pose_a), fixed.render(pose_b)
    assert np.abs(a - b).mean() > 0.005, "the shading should turn with the object in the picture"
    point = 20 * np.array([-0.1, 0.95, 0.3]) / np.linalg.norm([-0.1, 0.95, 0.3])
    (ua, va), (ub, vb) = _pixel_of(camera, pose_a, point), _pixel_of(camera, pose_b, point)
    assert a[va, ua, 0] == pytest.approx(b[vb, ub, 0], abs=0.04)


def _pixel_of(camera, pose, point):
    return np.floor(camera.project(pose.apply(point))).astype(int)


def test_camera_inside_the_volume():
    """In a hollow ball the wall is at its radius in every direction and the picture is filled."""
    shape = (60, 60, 60)
    affine = _affine(np.eye(3), shape, (0, 0, 0))
    distance = np.linalg.norm(_world(affine, shape), axis=-1)
    volume = Volume(np.clip(400 + 150 * (distance - 20), 0, 1000).astype(np.float32), affine)
    camera = Camera("PINHOLE", 64, 64, (32.0, 32.0, 32.0, 32.0))
    pose = look_at(np.array([2.0, 1.0, -1.0]), np.array([12.0, 5.0, 3.0]), np.array([0, 0, 1.0]))
    picture = VolumeRenderer(volume, FLAT, camera, light="headlight").render(pose)
    assert picture[..., 3].min() > 0.9
    depth = DepthTracer(volume, FLAT).depth(camera, pose)
    y, x = np.mgrid[:64, :64] + 0.5
    points = pose.inverse().apply(camera.unproject(np.stack([x, y], -1)) * depth[..., None])
    assert np.abs(np.linalg.norm(points, axis=-1) - 20).max() < 0.8


@pytest.mark.parametrize("name", ["las left-handed", "oblique flipped", "permuted"])
def test_true_surface_is_in_patient_mm_and_faces_out(name):
    affine = _affine(AFFINES[name], SHAPE)
    centre = np.array((12.0, -35.0, 7.0))
    mesh = isosurface(_balls(affine, [centre], 14.0), FLAT)
    radius = np.linalg.norm(mesh.vertices - centre, axis=1)
    assert np.abs(radius - 14).max() < 0.4
    a, b, c = (mesh.vertices[mesh.faces[:, i]] - centre for i in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    assert volume == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.03)
    thin = isosurface(_balls(affine, [centre], 14.0), FLAT, max_faces=1500)
    assert len(thin.faces) < 0.7 * len(mesh.faces)
    assert np.abs(np.linalg.norm(thin.vertices - centre, axis=1) - 14).max() < 0.6


def test_true_surface_is_closed_at_the_border():
    """What the volume's border cuts is closed within one voxel beyond it."""
    data = np.full((20, 20, 12), 1000.0, np.float32)
    data[:5] = data[-5:] = 0
    mesh = isosurface(with_border(Volume(data, np.diag([1, 1, 2.5, 1.0])), 0.0), FLAT)
    cut = 2.5 * (1 - FLAT.level() / 1000)
    assert mesh.vertices[:, 2].min() == pytest.approx(-cut) and mesh.vertices[:, 2].max() == pytest.approx(27.5 + cut)
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), 1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_orbit_keeps_its_promises():
    center = np.array([5.0, -3.0, 100.0])
    poses = orbit(center, 400, 36, loops=1, elevation_deg=(-10, 40), elevation_waves=2)
    offset = np.array([p.center for p in poses]) - center
    assert np.allclose(np.linalg.norm(offset, axis=1), 400)
    elevation = np.degrees(np.arcsin(offset[:, 2] / 400))
    assert elevation.min() == pytest.approx(-10, abs=0.5) and elevation.max() == pytest.approx(40, abs=0.5)
    assert offset[0, 1] > 0.8 * 400, "the first view is from the front"
    assert offset[9, 0] < -300, "a quarter turn on, the camera is at the patient's left"
    for p in poses:
        p.validate()
        assert np.allclose(p.apply(center), [0, 0, 400])
        assert p.apply(center + [0, 0, 10])[1] < 0, "superior is up in the picture"


def test_fly_through_goes_along_the_points_without_roll():
    points = np.array([(0, 0, 0), (0, 10, 30), (20, 15, 60), (40, 10, 80)], float)
    poses = fly_through(points, 40, look_ahead_mm=10)
    centres = np.array([p.center for p in poses])
    assert np.allclose(centres[0], points[0]) and np.allclose(centres[-1], points[-1])
    for point in points:
        assert np.linalg.norm(centres - point, axis=1).min() < 1.5
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    assert steps.std() < 0.02 * steps.mean()
    for before, after in zip(poses, poses[1:]):
        turn = after.rotation @ before.rotation.T
        assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) < 12
    wobbling = np.array([p.center for p in fly_through(points, 40, 10, wobble_mm=3)])
    assert np.allclose(np.linalg.norm(wobbling - centres, axis=1), 3)

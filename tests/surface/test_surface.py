# SPDX-License-Identifier: Apache-2.0
"""Surfaces of an analytic sphere: area, volume and place are known in closed form."""

import dataclasses

import numpy as np
import pytest
import sphere_run
from sphere_run import RADIUS_MM, build, use_field

from medrecon.errors import InputError, PluginError, StageError
from medrecon.progress import Quiet
from medrecon.surface import cleanup
from medrecon.surface.density_grid import sample_density
from medrecon.surface.extract import extract
from medrecon.surface.marching_cubes import MarchingCubesMesher, MarchingCubesMesherConfig
from medrecon.surface.measure import PixelPick, measure_distance, measure_geometry, measure_pixels
from medrecon.surface.threshold import first_crossing
from medrecon.surface.visibility import sights
from medrecon.types import Mesh

AREA, VOLUME = 4 * np.pi * RADIUS_MM**2, 4 / 3 * np.pi * RADIUS_MM**3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return build(tmp_path_factory.mktemp("run"))


def mesh_of(run, tmp_path, monkeypatch, renderer=None, **options):
    use_field(monkeypatch, run, renderer)
    mesher = MarchingCubesMesher(MarchingCubesMesherConfig(**{"resolution": 48, **options}))
    return extract(run, mesher, tmp_path, "cpu", Quiet())


def test_area_volume_and_place_in_mm_through_two_similarities(run, tmp_path, monkeypatch):
    mesh = mesh_of(run, tmp_path, monkeypatch)
    assert mesh.unit == "mm"
    r = np.linalg.norm(mesh.vertices, axis=1)  # the metric frame is the world: the sphere stands at the origin
    assert abs(r.mean() - RADIUS_MM) < 0.01 * RADIUS_MM and r.std() < 0.1
    g = measure_geometry(mesh)
    assert g.area == pytest.approx(AREA, rel=0.02)
    assert g.volume == pytest.approx(VOLUME, rel=0.03)
    assert np.allclose(g.bbox_max - g.bbox_min, 2 * RADIUS_MM, rtol=0.02)
    saved = Mesh.load(tmp_path / "mesh.npz")
    assert np.array_equal(saved.vertices, mesh.vertices) and saved.unit == "mm"


def test_triangles_turn_outwards(run, tmp_path, monkeypatch):
    mesh = mesh_of(run, tmp_path, monkeypatch, colour=False)
    n = cleanup.vertex_normals(mesh.vertices, mesh.faces)
    assert (n * mesh.vertices).sum(1).min() > 0
    assert mesh.colors is None


def test_unknown_scale_stays_unknown(tmp_path, monkeypatch):
    run = build(tmp_path, metric=False)
    mesh = mesh_of(run, tmp_path, monkeypatch)
    assert mesh.unit == "unknown"
    center = sphere_run.SFM_FROM_WORLD.translation
    r = np.linalg.norm(mesh.vertices - center, axis=1)
    assert r.mean() == pytest.approx(RADIUS_MM * sphere_run.SFM_FROM_WORLD.scale, rel=0.02)


def test_threshold_follows_the_rendered_depth(run, tmp_path, monkeypatch):
    # A soft ball (an edge as wide as a third of its radius): the level matters, and one level fits its depth.
    renderer = sphere_run.SphereRenderer(hardness=25.0, width=0.08)
    _, scene = use_field(monkeypatch, run, renderer)
    mesh = mesh_of(run, tmp_path, monkeypatch, renderer)
    rays = scene.rays(scene.train_ids[0], stride=3)
    out = renderer.render(rays)
    points = rays.origins + out.depth_median[:, None] * rays.directions
    rendered_mm = float(points[out.opacity > 0.5].norm(dim=1).median()) / 0.6 * RADIUS_MM
    r = np.linalg.norm(mesh.vertices, axis=1)
    step_mm = 1.6 / 47 / 0.6 * RADIUS_MM
    assert abs(r.mean() - rendered_mm) < 0.7 * step_mm
    assert abs(rendered_mm - RADIUS_MM) > 2 * step_mm  # half the maximum density would have been wrong


def test_fixed_threshold_and_no_surface(run, tmp_path, monkeypatch):
    assert len(mesh_of(run, tmp_path, monkeypatch, threshold=30.0).faces) > 1000
    with pytest.raises(StageError, match="outside the field's range"):
        mesh_of(run, tmp_path, monkeypatch, threshold=1000.0)
    with pytest.raises(StageError, match="transparent"):
        mesh_of(run, tmp_path, monkeypatch, sphere_run.SphereRenderer(hardness=1e-3))


class TwoBalls(sphere_run.SphereRenderer):
    """A speck beside the sphere."""

    def density(self, xyz):
        import torch

        speck = self.hardness * torch.sigmoid((0.05 - (xyz - torch.tensor([0.0, 0.0, 0.69])).norm(dim=-1)) / 0.01)
        return torch.maximum(super().density(xyz), speck)


def test_small_components(run, tmp_path, monkeypatch):
    far = lambda m: (np.linalg.norm(m.vertices, axis=1) > 31.5).any()  # noqa: E731
    assert far(mesh_of(run, tmp_path, monkeypatch, TwoBalls(), min_component=0.0))
    # The speck has (0.05 / 0.6)^2 = 0.7 % of the sphere's area.
    assert far(mesh_of(run, tmp_path, monkeypatch, TwoBalls(), min_component=0.003))
    assert not far(mesh_of(run, tmp_path, monkeypatch, TwoBalls(), min_component=0.015))


def test_only_what_was_seen_is_kept(tmp_path, monkeypatch):
    # Cameras of one hemisphere only.
    keep = {i for i, p in sphere_run.poses(40).items() if p.center[2] > 20}
    run = build(tmp_path, n=40, drop=[i for i in sphere_run.poses(40) if i not in keep])
    mesh = mesh_of(run, tmp_path, monkeypatch)
    assert mesh.vertices[:, 2].max() > 0.98 * RADIUS_MM
    assert mesh.vertices[:, 2].min() > -0.8 * RADIUS_MM
    whole = mesh_of(run, tmp_path, monkeypatch, min_views=0)
    assert whole.vertices[:, 2].min() < -0.98 * RADIUS_MM
    g = measure_geometry(mesh)
    assert g.volume is None and "open" in g.volume_reason
    top = mesh.confidence[mesh.vertices[:, 2] > 25].mean()
    assert top > mesh.confidence[mesh.vertices[:, 2] < 0].mean() and mesh.confidence.max() <= 1


def test_sight_agrees_with_geometry():
    # Points of a sphere: exactly those whose normal turns to the camera are seen.
    rng = np.random.default_rng(0)
    n = rng.normal(size=(20000, 3))
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    pose = sphere_run.poses(5)[12]
    (s,) = sights(RADIUS_MM * n, n, 0.7, {12: sphere_run.CAMERA}, {12: pose}, [12])
    truth = ((pose.center - RADIUS_MM * n) * n).sum(1) > 0
    assert not (s.visible & ~truth).any() and (s.visible & truth).sum() > 0.97 * truth.sum()
    # A small plate before the sphere hides what lies behind it.
    plate = pose.center * 0.5 + rng.uniform(-3, 3, (2000, 3)) * [1, 1, 1]
    both = np.concatenate([RADIUS_MM * n, plate])
    normals = np.concatenate([n, np.broadcast_to(pose.center / np.linalg.norm(pose.center), plate.shape)])
    (s2,) = sights(both, normals, 0.7, {12: sphere_run.CAMERA}, {12: pose}, [12])
    middle = n @ pose.center > 0.998 * np.linalg.norm(pose.center)
    assert s.visible[middle].all() and s2.visible[: len(n)][middle].mean() < 0.3


def test_colours_come_from_the_pictures(run, tmp_path, monkeypatch):
    mesh = mesh_of(run, tmp_path, monkeypatch)
    on_sphere = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True) * RADIUS_MM
    error = np.abs(mesh.colors / 255.0 - sphere_run.colour_at(on_sphere))
    assert np.median(error) < 0.02 and np.percentile(error, 95) < 0.06


def test_smoothing_and_decimation_keep_the_shape(run, tmp_path, monkeypatch):
    mesh = mesh_of(run, tmp_path, monkeypatch, smooth=20, max_faces=3000)
    assert len(mesh.faces) <= 3100
    assert measure_geometry(mesh).volume == pytest.approx(VOLUME, rel=0.03)


def test_grid_is_isotropic_covers_the_box_and_skips_what_is_empty(run, monkeypatch):
    renderer, scene = use_field(monkeypatch, run)
    grid = sample_density(renderer, scene, 33, "cpu", Quiet())
    last = grid.field_from_ijk.apply(np.array(grid.values.shape) - 1)
    assert (last >= scene.bounds_max - 1e-9).all() and (last < scene.bounds_max + grid.step).all()
    p = np.random.default_rng(0).uniform(-0.5, 0.5, (100, 3))
    assert np.allclose(grid.at(p)[np.linalg.norm(p, axis=1) < 0.4], 60.0, rtol=1e-3)
    occupied = np.ones((4, 4, 4), bool)
    occupied[0] = False
    scene = dataclasses.replace(scene, occupied=occupied)
    half = sample_density(renderer, scene, 33, "cpu", Quiet())
    assert (half.values[:7] == 0).all() and np.allclose(half.values[10:], grid.values[10:])


def test_first_crossing():
    t = np.array([[0.0, 1, 2, 3]] * 3)
    s = np.array([[0.0, 0, 4, 0], [0, 0, 0, 0], [5, 5, 5, 5]])
    assert np.allclose(first_crossing(t, s, 1.0), [1.25, np.nan, 0.0], equal_nan=True)


def test_distance_between_picked_pixels(run, tmp_path, monkeypatch):
    (run.root / "stages" / "surface").mkdir(exist_ok=True)
    mesh = mesh_of(run, run.root / "stages" / "surface", monkeypatch)
    pose = sphere_run.poses(20)[15]
    a, b = pose.center / np.linalg.norm(pose.center), None
    b = a + 0.5 * pose.rotation[0]
    a, b = RADIUS_MM * a, RADIUS_MM * b / np.linalg.norm(b)
    (xa, ya), (xb, yb) = (sphere_run.CAMERA.project(pose.apply(p)) for p in (a, b))
    d = measure_distance(run, PixelPick(15, xa, ya), PixelPick(15, xb, yb))
    assert d.unit == "mm" and abs(d.value - np.linalg.norm(b - a)) < 0.5
    assert d.sigma > d.sigma_local > 0 and d.sigma == pytest.approx(np.hypot(d.sigma_local, 0.01 * d.value))
    assert measure_pixels(run, 15, (xa, ya), (xb, yb)).value == d.value
    assert measure_distance(run, tuple(a), list(b)).value == pytest.approx(np.linalg.norm(b - a))
    i, j = 0, len(mesh.vertices) - 1
    assert measure_distance(run, i, j).value == pytest.approx(np.linalg.norm(mesh.vertices[i] - mesh.vertices[j]))
    for bad in (PixelPick(99, 1, 1), PixelPick(15, -1, 0), PixelPick(15, 0.5, 0.5), -1, np.array([np.nan, 0, 0])):
        with pytest.raises(InputError):
            measure_distance(run, bad, 0)


def cube():
    v = np.array([[x, y, z] for x in (0, 2.0) for y in (0, 3.0) for z in (0, 4.0)]) + 1000
    q = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    f = np.array([t for a, b, c, d in q for t in ((a, b, c), (a, c, d))], np.int32)
    return Mesh(v, f, unit="mm")


def test_box_far_from_the_origin():
    g = measure_geometry(cube())
    assert g.area == pytest.approx(52) and g.volume == pytest.approx(24)
    assert np.allclose(g.bbox_max - g.bbox_min, [2, 3, 4])


def test_volume_is_refused_where_there_is_none():
    m = cube()
    assert measure_geometry(Mesh(m.vertices, m.faces[1:])).volume is None
    turned = m.faces.copy()
    turned[0] = turned[0][::-1]
    assert "oppositely" in measure_geometry(Mesh(m.vertices, turned)).volume_reason
    assert "inside out" in measure_geometry(Mesh(m.vertices, m.faces[:, ::-1])).volume_reason
    with pytest.raises(InputError):
        measure_geometry(Mesh(m.vertices, np.zeros((0, 3), np.int32)))


class Rubbish:
    def __init__(self, result):
        self.result = result

    def mesh(self, run, device, progress):
        return self.result


@pytest.mark.parametrize(
    "result",
    [None, cube(), Mesh(np.full((3, 3), np.nan), np.array([[0, 1, 2]])), Mesh(np.zeros((3, 3)), np.array([[0, 1, 9]]))],
)
def test_a_plugin_that_returns_rubbish_is_named(tmp_path, result):
    run = build(tmp_path, n=4, metric=False)
    with pytest.raises(PluginError, match="Rubbish"):
        extract(run, Rubbish(result), tmp_path / "out", "cpu", Quiet())
    assert not (tmp_path / "out" / "mesh.npz").exists()

# SPDX-License-Identifier: Apache-2.0
"""Median depth, its uncertainty and normals against a sphere, a plane and soft matter in closed form."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.errors import InputError
from medrecon.images import read_any
from medrecon.radiance.normals import normals_from_depth
from medrecon.radiance.scene import pixel_directions
from medrecon.radiance.view_maps import ViewMaps, render_maps
from medrecon.testing import phantoms
from medrecon.types import Camera, RenderOut

sys.path.insert(0, str(Path(__file__).parent))
from radiance_ball import CENTRE, RADIUS, cameras, trace  # noqa: E402

CAMERAS = [
    Camera("SIMPLE_PINHOLE", 64, 64, (96.0, 32.0, 32.0)),
    Camera("OPENCV", 72, 60, (100.0, 90.0, 37.0, 29.0, -0.2, 0.05, 0.002, -0.001)),
]


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda c: c.model)
def test_normals_of_a_sphere(camera):
    pose = cameras(5)[2]
    _, depth = trace(camera, pose, supersample=1)
    directions = pixel_directions(camera)[0]
    normals = normals_from_depth(depth, directions)
    hit = depth > 0
    true = (directions * depth[..., None] - pose.apply(CENTRE)) / RADIUS
    facing = -(true * directions).sum(-1) / np.linalg.norm(directions, axis=-1)
    error = degrees_between(normals, true)
    assert (normals[~hit] == 0).all() and np.allclose(np.linalg.norm(normals[hit], axis=-1), 1, atol=1e-5)
    assert error[hit & (facing > 0.5)].max() < 2 and np.median(error[hit]) < 0.5
    assert ((normals * directions).sum(-1)[hit] < 0).all()


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda c: c.model)
def test_normals_of_a_tilted_plane_are_exact_up_to_its_rim(camera):
    true = np.array([0.5, -0.3, -0.8]) / np.linalg.norm([0.5, -0.3, -0.8])
    directions = pixel_directions(camera)[0]
    depth = 7.0 / -(directions @ -true)
    depth = -depth
    depth[:, :20] = 0  # a rim within the picture
    depth[5, 40] = 0
    normals = normals_from_depth(depth, directions)
    assert degrees_between(normals, true)[depth > 0].max() < 0.2
    assert (normals[depth == 0] == 0).all()


def test_a_step_is_not_a_slope():
    camera = CAMERAS[0]
    depth = np.full((64, 64), 5.0)
    depth[:, 32:] = 9.0
    normals = normals_from_depth(depth, pixel_directions(camera)[0])
    assert degrees_between(normals, np.array([0.0, 0.0, -1.0])).max() < 0.1


class Fog:
    """Matter of constant density from a plane of constant z-depth on."""

    def __init__(self, z, density):
        self.z, self.density = z, density

    def render_depth(self, rays):
        n = len(rays)
        opacity = torch.where(rays.origins[:, 0] + rays.directions[:, 0] * self.z > 0, 1.0, 0.4)
        mean, median = self.z + 1 / self.density, self.z + np.log(2) / self.density
        full = lambda x: torch.full((n,), float(x))  # noqa: E731
        return RenderOut(torch.zeros(n, 3), full(mean), opacity, full(median), full(1 / self.density))


def test_maps_are_in_reconstruction_units_and_only_where_something_is_hit(tmp_path):
    scene = phantoms.scene()
    i = scene.train_ids[0]
    camera, pose = scene.cameras[i], scene.cam_from_sfm[i]
    maps = render_maps(Fog(2.5, 8.0), scene, camera, pose, scene.near_far[i], chunk=100)
    hit = maps.median_sfm > 0
    assert 0.2 < hit.mean() < 0.8
    unit = 1 / scene.field_from_sfm.scale
    assert np.allclose(maps.median_sfm[hit], (2.5 + np.log(2) / 8) * unit, rtol=1e-5)
    assert np.allclose(maps.spread_sfm[hit], unit / 8, rtol=1e-5) and (maps.spread_sfm[~hit] == 0).all()
    # A plane of constant z-depth looks straight at the camera.
    assert np.allclose(maps.normals[hit], [0, 0, -1], atol=1e-4)
    path = maps.save(tmp_path, "000007", 1e-3 * unit)
    again = ViewMaps.load(path)
    assert all(np.array_equal(getattr(maps, n), getattr(again, n)) for n in ("median_sfm", "spread_sfm", "normals"))
    grey = read_any(tmp_path / "median" / "000007.png")
    assert grey.dtype == np.uint16 and np.abs(grey * 1e-3 * unit - maps.median_sfm).max() <= 0.51e-3 * unit
    rgb = read_any(tmp_path / "normals" / "000007.png")
    assert (rgb[hit] == [128, 128, 255]).all() and (rgb[~hit] == 0).all()
    with pytest.raises(InputError):
        ViewMaps.load(tmp_path / "maps" / "none.npz")


def test_normal_picture_has_x_to_the_right_and_y_upwards(tmp_path):
    normal = np.zeros((1, 2, 3), np.float32)
    normal[0, 0], normal[0, 1] = (1, 0, 0), (0, -1, 0)  # camera axes: y points down
    ViewMaps(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32), normal).save(tmp_path, "a", 1.0)
    rgb = read_any(tmp_path / "normals" / "a.png")
    assert rgb[0].tolist() == [[255, 128, 128], [128, 255, 128]]


def test_report_shows_normals_and_relative_uncertainty(tmp_path):
    from medrecon.radiance.renders import RenderedView, Renders
    from medrecon.report.sections import _map_panels

    median = np.array([[10.0, 10, 10, 0]], np.float32)
    spread = np.array([[0.0, 0.5, 7, 0]], np.float32)
    normals = np.zeros((1, 4, 3), np.float32)
    normals[0, :3, 2] = -1
    path = ViewMaps(median, spread, normals).save(tmp_path, "000003", 1.0)
    files = [tmp_path / n for n in ("a.png", "b.npz", "c.png")]
    view = RenderedView(3, *files, maps_path=path)
    Renders("mine", "none", (view, RenderedView(4, *files)), None, 1.0).save(tmp_path)
    loaded = Renders.load(tmp_path)
    assert loaded.png_step_sfm == 1.0 and loaded.views[0].maps_path == path and loaded.views[1].maps_path is None
    (shown, _), (grey, words) = _map_panels(loaded.views[0])
    assert shown[0].tolist() == [[128, 128, 255]] * 3 + [[0, 0, 0]]
    assert grey[0].tolist() == [0, 128, 255, 0] and "10%" in words  # 5 % of the depth is half of full scale
    assert _map_panels(loaded.views[1]) == []


def test_a_renderer_without_median_has_no_maps():
    class Bare:
        def render_depth(self, rays):
            n = len(rays)
            return RenderOut(torch.zeros(n, 3), torch.ones(n), torch.ones(n))

    scene = phantoms.scene()
    i = scene.train_ids[0]
    assert render_maps(Bare(), scene, scene.cameras[i], scene.cam_from_sfm[i], scene.near_far[i]) is None

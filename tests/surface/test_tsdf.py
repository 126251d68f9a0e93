# SPDX-License-Identifier: Apache-2.0
"""The mesher ``tsdf`` on a run whose surface is known: a sphere of 30 mm, whole, half seen, masked; a thin sheet."""

import dataclasses

import numpy as np
import pytest
import sphere_run
import torch
from sphere_run import RADIUS_MM, build, use_field

from medrecon import images
from medrecon.errors import StageError
from medrecon.progress import Quiet
from medrecon.surface import cleanup
from medrecon.surface.extract import extract
from medrecon.surface.marching_cubes import MarchingCubesMesher, MarchingCubesMesherConfig
from medrecon.surface.measure import measure_geometry
from medrecon.surface.tsdf import TsdfMesher, TsdfMesherConfig
from medrecon.types import RenderOut

STEP_MM = 1.6 / 47 / 0.6 * RADIUS_MM  # of 48 voxels along the scene's 1.6 field units


def mesh_of(run, tmp_path, monkeypatch, renderer=None, **options):
    use_field(monkeypatch, run, renderer)
    mesher = TsdfMesher(TsdfMesherConfig(**{"resolution": 48, **options}))
    return extract(run, mesher, tmp_path, "cpu", Quiet())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return build(tmp_path_factory.mktemp("run"))


def test_sphere_in_mm(run, tmp_path, monkeypatch):
    # As hard a ball as can be: its median depth is its surface.
    renderer = sphere_run.SphereRenderer(hardness=600.0, width=0.002)
    mesh = mesh_of(run, tmp_path, monkeypatch, renderer)
    r = np.linalg.norm(mesh.vertices, axis=1)
    assert mesh.unit == "mm" and abs(r.mean() - RADIUS_MM) < 0.2 * STEP_MM and np.abs(r - RADIUS_MM).max() < STEP_MM
    g = measure_geometry(mesh)
    assert g.area == pytest.approx(4 * np.pi * RADIUS_MM**2, rel=0.03)
    assert g.volume == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3, rel=0.05)
    assert (cleanup.vertex_normals(mesh.vertices, mesh.faces) * mesh.vertices).sum(1).min() > 0
    # Colours of the pictures, sharp depths: all vertices are well seen.
    truth = sphere_run.colour_at(mesh.vertices) * 255
    assert np.median(np.abs(mesh.colors - truth)) < 8
    assert 0.3 < mesh.confidence.min() and mesh.confidence.max() <= 1


def test_fewer_faces(run, tmp_path, monkeypatch):
    renderer = sphere_run.SphereRenderer(hardness=600.0, width=0.002)
    mesh = mesh_of(run, tmp_path, monkeypatch, renderer, max_faces=800, smooth=5, colour=False)
    assert len(mesh.faces) <= 820 and mesh.colors is None
    r = np.linalg.norm(mesh.vertices, axis=1)
    assert abs(r.mean() - RADIUS_MM) < 0.3 * STEP_MM


def test_a_transparent_field_is_said_to_be_one(run, tmp_path, monkeypatch):
    with pytest.raises(StageError, match="transparent"):
        mesh_of(run, tmp_path, monkeypatch, sphere_run.SphereRenderer(hardness=1e-3))


class SheetRenderer:
    """An opaque square |x|, |y| < 0.5 at z = 0 of the field frame, infinitely thin; lit from one side by its cameras."""

    def render_depth(self, rays):
        t = -rays.origins[:, 2] / rays.directions[:, 2]
        p = rays.origins + t[:, None] * rays.directions
        hit = (t > rays.near[:, 0]) & (t < rays.far[:, 0]) & (p[:, :2].abs() < 0.5).all(1)
        depth = torch.where(hit, t, 0.0)
        return RenderOut(torch.zeros(len(t), 3), depth, hit.float(), depth, torch.zeros_like(depth))


def test_a_thin_sheet_seen_from_one_side_has_no_back(tmp_path, monkeypatch):
    up = sphere_run.FIELD_FROM_SFM.rotation @ sphere_run.SFM_FROM_WORLD.rotation
    above = [i for i, p in sphere_run.poses(40).items() if (up @ p.center)[2] > 50]
    run = build(tmp_path, n=40, drop=[i for i in sphere_run.poses(40) if i not in above], metric=False)
    mesh = mesh_of(run, tmp_path / "out", monkeypatch, SheetRenderer())
    field = sphere_run.FIELD_FROM_SFM.apply(mesh.vertices)
    step = 1.6 / 47
    assert np.abs(field[:, 2]).max() < 4 * step and np.mean(np.abs(field[:, 2]) < 0.2 * step) > 0.75
    normals = cleanup.vertex_normals(field, mesh.faces)
    middle = (np.abs(field[:, :2]) < 0.4).all(1)
    assert normals[middle][:, 2].min() > 0.95  # all towards the cameras
    assert cleanup.face_areas(field, mesh.faces).sum() == pytest.approx(1.0, abs=0.2)  # once, not twice


@pytest.mark.parametrize("mesher", [TsdfMesher, MarchingCubesMesher], ids=["tsdf", "marching-cubes"])
def test_what_masks_hide_was_not_seen(tmp_path, monkeypatch, mesher):
    """All pictures but one are masked: what has a confidence is what that one sees of the sphere."""
    run = build(tmp_path, n=8)
    frames, poses = run.frames, sphere_run.poses(8)
    images.write_png(tmp_path / "mask.png", np.zeros((sphere_run.CAMERA.height_px, sphere_run.CAMERA.width_px), bool))
    masked = [f if f.frame_id == 13 else dataclasses.replace(f, mask_path=tmp_path / "mask.png") for f in frames.frames]
    dataclasses.replace(frames, frames=tuple(masked)).save(tmp_path / "stages" / "keyframes" / "frames.json")
    use_field(monkeypatch, run, sphere_run.SphereRenderer(hardness=600.0, width=0.002))
    config = {TsdfMesher: TsdfMesherConfig, MarchingCubesMesher: MarchingCubesMesherConfig}[mesher]
    make = lambda n: mesher(config(resolution=40, min_views=n))  # noqa: E731
    everything = extract(run, make(0), tmp_path / "all", "cpu", Quiet())
    eye = poses[13].center
    facing = ((eye - everything.vertices) * everything.vertices).sum(1) > 0
    assert 0.2 < facing.mean() < 0.5 and ((everything.confidence > 0) == facing).mean() > 0.92
    seen = extract(run, make(1), tmp_path / "seen", "cpu", Quiet())
    assert len(seen.vertices) == pytest.approx(facing.sum(), rel=0.1)
    with pytest.raises(StageError, match="seen by 2 training cameras"):
        extract(run, make(2), tmp_path / "two", "cpu", Quiet())


def test_confidence_grows_with_views_and_falls_with_vagueness(tmp_path, monkeypatch):
    """On the sphere all views are alike: Q is a sum of cosines, up to what a soft edge takes away."""
    few, many = build(tmp_path / "few", n=10), build(tmp_path / "many", n=30)
    sharp = sphere_run.SphereRenderer(hardness=600.0, width=0.002)
    a, b = (mesh_of(r, tmp_path / n, monkeypatch, sharp) for r, n in ((few, "a"), (many, "b")))
    # Cameras at distance D of a sphere see a point at angle t from their axis with the cosine of the angle between the
    # normal and the ray; averaged over directions spread evenly, times the number of cameras, that is Q.
    t = np.linspace(0, np.arccos(RADIUS_MM / sphere_run.DISTANCE_MM), 2000)
    to_eye = np.stack([sphere_run.DISTANCE_MM * np.cos(t) - RADIUS_MM, sphere_run.DISTANCE_MM * np.sin(t)])
    cosine = to_eye[0] / np.linalg.norm(to_eye, axis=0)
    mean = np.trapezoid(cosine * np.sin(t) / 2, t) if hasattr(np, "trapezoid") else np.trapz(cosine * np.sin(t) / 2, t)
    for mesh, n in ((a, 10), (b, 30)):
        assert np.median(mesh.confidence) == pytest.approx(n * mean / (n * mean + 2), abs=0.05)
        well = np.median(mesh.views)  # within 60 degrees of the normal
        assert well == pytest.approx(n * (1 - np.cos(t[cosine > 0.5].max())) / 2, abs=1.1)
    vague = mesh_of(few, tmp_path / "v", monkeypatch, Vague(hardness=600.0, width=0.002), min_weight=0.0)
    # A spread of 8 voxels is twice what halves a view: a fifth is left of Q.
    assert np.median(vague.confidence) == pytest.approx(2 * mean / (2 * mean + 2), abs=0.05)


class Vague(sphere_run.SphereRenderer):
    """Depths in the same place, said to be uncertain by eight voxels along the ray's axis."""

    def render_depth(self, rays):
        out = self.render(rays)
        return dataclasses.replace(out, depth_std=torch.full_like(out.depth, 8 * 1.6 / 47))

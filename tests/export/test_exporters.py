# SPDX-License-Identifier: Apache-2.0
"""Every export is read back by somebody else's reader: VTK, nibabel, pycolmap."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import sphere_run
from sphere_run import RADIUS_MM, build, use_field, write_features
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOGeometry import vtkOBJReader, vtkSTLReader
from vtkmodules.vtkIOPLY import vtkPLYReader

from medrecon import images  # noqa: F401  (cv2 before pycolmap)
from medrecon.builtins import COMPONENTS
from medrecon.errors import InputError
from medrecon.export.colmap import ColmapExporter, ColmapExporterConfig
from medrecon.export.mesh_files import (
    ObjExporter,
    ObjExporterConfig,
    PlyExporter,
    PlyExporterConfig,
    StlExporter,
    StlExporterConfig,
    ply_bytes,
)
from medrecon.export.nifti import NiftiExporter, NiftiExporterConfig
from medrecon.export.transforms import TransformsExporter, TransformsExporterConfig
from medrecon.runfolder import RunFolder
from medrecon.types import Mesh


@pytest.fixture(params=[True, False], ids=["mm", "unknown"])
def run(request, tmp_path):
    run = build(tmp_path / "a run ü", n=6, metric=request.param, drop=(11,))
    write_features(run)
    rng = np.random.default_rng(0)
    faces = np.array([[0, 1, 2], [2, 1, 3], [4, 3, 1]], np.int32)
    mesh = Mesh(rng.normal(size=(5, 3)) * 40, faces, rng.integers(0, 256, (5, 3), np.uint8), None,
                "mm" if request.param else "unknown")  # fmt: skip
    mesh.save(run.root / "stages" / "surface" / "mesh.npz")
    run.metric = request.param
    return run


def read(reader, path):
    reader.SetFileName(str(path))
    reader.Update()
    data = reader.GetOutput()
    faces = vtk_to_numpy(data.GetPolys().GetConnectivityArray()).reshape(-1, 3) if data.GetNumberOfPolys() else None
    return vtk_to_numpy(data.GetPoints().GetData()), faces, data


def check_name(run, path):
    assert ("_mm" in path.name) == run.metric and ("scale-unknown" in path.name) == (not run.metric)


def test_ply(run, tmp_path):
    surface, points = PlyExporter(PlyExporterConfig()).export(run, tmp_path / "out")
    v, f, data = read(vtkPLYReader(), surface)
    assert np.allclose(v, run.mesh.vertices, atol=1e-4) and np.array_equal(f, run.mesh.faces)
    assert np.array_equal(vtk_to_numpy(data.GetPointData().GetArray("RGB")), run.mesh.colors)
    assert b"confidence" not in surface.read_bytes().split(b"end_header")[0]  # the fixture's mesh has none
    p, _, _ = read(vtkPLYReader(), points)
    assert np.allclose(p, run.sparse.scale.metric_from_sfm.apply(run.sparse.points), atol=1e-4)
    for path in (surface, points):
        check_name(run, path)
        header = path.read_bytes().split(b"end_header")[0]
        assert (b"unit: mm" in header) == run.metric and (b"scale unknown" in header) == (not run.metric)


def test_ply_carries_the_confidence():
    rng = np.random.default_rng(0)
    confidence = rng.random(7).astype(np.float32)
    data = ply_bytes(rng.random((7, 3)), None, rng.integers(0, 255, (7, 3), np.uint8), (), confidence)
    header, body = data.split(b"end_header\n")
    names = [line.split()[-1] for line in header.decode().splitlines() if line.startswith("property")]
    assert names == ["x", "y", "z", "red", "green", "blue", "confidence"]
    row = 3 * 8 + 3 + 4  # as the header says, little-endian and without gaps
    assert len(body) == 7 * row
    assert [np.frombuffer(body[k * row + 27 : (k + 1) * row], "<f4")[0] for k in range(7)] == confidence.tolist()


def test_obj(run, tmp_path):
    (path,) = ObjExporter(ObjExporterConfig()).export(run, tmp_path / "out")
    v, f, _ = read(vtkOBJReader(), path)
    assert np.allclose(v, run.mesh.vertices, atol=1e-4) and np.array_equal(f, run.mesh.faces)
    check_name(run, path)
    assert ("unit: mm" in path.read_text()) == run.metric


def test_stl(run, tmp_path):
    (path,) = StlExporter(StlExporterConfig()).export(run, tmp_path / "out")
    reader = vtkSTLReader()
    reader.MergingOff()
    v, f, _ = read(reader, path)
    assert np.allclose(v[f], run.mesh.vertices[run.mesh.faces], atol=1e-4)
    check_name(run, path)
    header = path.read_bytes()[:80]
    assert not header.startswith(b"solid") and (b"UNIT mm" in header) == run.metric


def test_mesh_exporters_say_when_there_is_no_surface(tmp_path):
    run = build(tmp_path, n=4)
    with pytest.raises(InputError, match="surface"):
        StlExporter(StlExporterConfig()).export(run, tmp_path / "out")
    (only_points,) = PlyExporter(PlyExporterConfig()).export(run, tmp_path / "out")
    assert only_points.name.startswith("points")


def test_nifti(run, tmp_path, monkeypatch):
    use_field(monkeypatch, run)
    (path,) = NiftiExporter(NiftiExporterConfig(resolution=40)).export(run, tmp_path / "out")
    image = nib.load(path)
    data, unit = image.get_fdata(), image.header.get_xyzt_units()[0]
    center = np.zeros(3) if run.metric else sphere_run.SFM_FROM_WORLD.translation
    radius = RADIUS_MM * (1 if run.metric else sphere_run.SFM_FROM_WORLD.scale)
    ijk = np.argwhere(data > data.max() / 2)
    x = nib.affines.apply_affine(image.affine, ijk)
    assert np.allclose(x.mean(0), center, atol=0.02 * radius)
    voxel = abs(np.linalg.det(image.affine[:3, :3]))
    assert len(ijk) * voxel == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.03)
    # 60 per field unit, in which the radius is 0.6.
    assert data.max() == pytest.approx(60 * 0.6 / radius, rel=1e-3)
    assert unit == ("mm" if run.metric else "unknown")
    assert (b"SCALE UNKNOWN" in image.header["descrip"].tobytes()) == (not run.metric)
    check_name(run, path)


def test_colmap_text_is_read_by_pycolmap(run, tmp_path):
    import pycolmap

    files = ColmapExporter(ColmapExporterConfig()).export(run, tmp_path / "out")
    check_name(run, files[0].parent)
    r = pycolmap.Reconstruction(str(files[0].parent))
    sparse = run.sparse
    assert r.num_reg_images() == 5 and r.num_points3D() == len(sparse.points) and r.num_cameras() == 1
    metric = sparse.scale.metric_from_sfm
    for i in sparse.registered_ids:
        image = r.image(i + 1)
        assert image.name == f"{i:06d}.png"
        assert np.allclose(image.projection_center(), metric.apply(sparse.cam_from_world[i].center), atol=1e-6)
        assert len(image.points2D) == len(run.features[i])
    # Tracks and poses fit together: every observation projects onto its keypoint.
    assert r.compute_num_observations() == len(sparse.track_frame_ids)
    for point in r.points3D.values():
        for e in point.track.elements:
            image = r.image(e.image_id)
            xy = image.project_point(point.xyz)
            assert np.allclose(xy, image.point2D(e.point2D_idx).xy, atol=1e-2)


def test_colmap_keypoints_are_the_refined_ones(run, tmp_path):
    import pycolmap

    sparse = run.sparse
    rng = np.random.default_rng(1)
    places = np.concatenate(
        [run.features[i].xy[k : k + 1] for i, k in zip(sparse.track_frame_ids.tolist(), sparse.track_keypoint_idx)]
    ) + rng.uniform(-1, 1, (len(sparse.track_frame_ids), 2))
    replace(sparse, track_xy=places).save(run.root / "stages" / "sfm")
    files = ColmapExporter(ColmapExporterConfig()).export(RunFolder(run.root), tmp_path / "out")
    r = pycolmap.Reconstruction(str(files[0].parent))
    for i, k, place in zip(sparse.track_frame_ids.tolist(), sparse.track_keypoint_idx.tolist(), places):
        assert np.allclose(r.image(i + 1).points2D[k].xy, place, atol=1e-3)


def test_colmap_without_features(tmp_path):
    import pycolmap

    run = build(tmp_path, n=4)
    files = ColmapExporter(ColmapExporterConfig()).export(run, tmp_path / "out")
    assert pycolmap.Reconstruction(str(files[0].parent)).num_reg_images() == 4


def test_transforms(run, tmp_path):
    (path,) = TransformsExporter(TransformsExporterConfig()).export(run, tmp_path / "out")
    check_name(run, path)
    data = json.loads(path.read_text())
    assert data["unit"] == ("mm" if run.metric else "unknown") and len(data["frames"]) == 5
    center = np.zeros(3) if run.metric else sphere_run.SFM_FROM_WORLD.translation
    for frame in data["frames"]:
        assert (path.parent / frame["file_path"]).is_file()
        m = np.array(frame["transform_matrix"])
        # OpenGL: the camera looks along -z, and the sphere lies there.
        to_sphere = center - m[:3, 3]
        distance = np.linalg.norm(to_sphere)
        assert np.allclose(-m[:3, 2], to_sphere / distance, atol=1e-6)
        unit = 1 if run.metric else sphere_run.SFM_FROM_WORLD.scale
        assert distance == pytest.approx(sphere_run.DISTANCE_MM * unit)
        assert (frame["fl_x"], frame["cx"], frame["w"], frame["k1"]) == (110.0, 48.5, 96, 0.0)


def test_every_registered_exporter_exists():
    for c in COMPONENTS:
        if c.kind == "exporter":
            assert hasattr(c.load_factory()(c.load_config()()), "export")

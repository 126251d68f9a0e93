# SPDX-License-Identifier: Apache-2.0
"""The 3-D view holds what the model holds, upright, in the right unit and small."""

import base64
import json

import numpy as np
import pytest
from synthetic_run import sphere_mesh

from medrecon.report.geometry import MOST_FACES, confidence_still, decimate, still, view_3d
from medrecon.types import Mesh, Scale, SparseModel


def empty_model(**fields):
    none = np.zeros((0, 3))
    return SparseModel(
        {}, {}, none, none.astype(np.uint8), np.zeros(0), np.zeros(0, int), np.zeros(0, int), np.zeros(1, int), **fields
    )


def test_millimetres_and_the_true_shape(finished):
    view = view_3d(finished.sparse, finished.frames, finished.mesh)
    assert view.unit == "mm"
    assert np.linalg.norm(view.points, axis=1) == pytest.approx(10.0, abs=0.3)
    centers = np.array([c[0] for _, c in view.cameras])
    assert np.linalg.norm(centers, axis=1) == pytest.approx(40.0, rel=0.02)
    looking = np.array([c[1:].mean(0) - c[0] for _, c in view.cameras])
    assert (np.einsum("ni,ni->n", looking, -centers) > 0).all()


def test_cameras_stand_upright(finished):
    view = view_3d(finished.sparse, finished.frames, finished.mesh)
    up = np.array([(c[1] + c[2] - c[3] - c[4]) for _, c in view.cameras])  # upper minus lower corners
    assert (up[:, 1] / np.linalg.norm(up, axis=1)).mean() > 0.9


def test_unknown_scale_stays_in_units(make_run):
    run = make_run(metric=False)
    view = view_3d(run.sparse, run.frames, run.mesh)
    assert view.unit == "units"
    assert np.linalg.norm(view.mesh.vertices, axis=1).mean() == pytest.approx(2.0, rel=0.05)


def test_mesh_in_reconstruction_units_is_brought_to_mm(finished):
    metric_from_sfm = finished.sparse.scale.metric_from_sfm
    moved = Mesh(metric_from_sfm.inverse().apply(finished.mesh.vertices), finished.mesh.faces)
    a = view_3d(finished.sparse, finished.frames, finished.mesh).mesh.vertices
    b = view_3d(finished.sparse, finished.frames, moved).mesh.vertices
    assert np.abs(a - b).max() < 1e-9


def test_payload_decodes_to_the_geometry(finished):
    view = view_3d(finished.sparse, finished.frames, finished.mesh)
    data = json.loads(json.dumps(view.payload()))
    raw = np.frombuffer(base64.b64decode(data["mesh"]["xyz"]), "<u2").reshape(-1, 3)
    xyz = (raw / 32767.5 - 1) * data["extent"]
    assert np.abs(xyz - view.mesh.vertices).max() <= data["extent"] / 32767
    faces = np.frombuffer(base64.b64decode(data["mesh"]["faces"]), "<u4").reshape(-1, 3)
    assert np.array_equal(faces, view.mesh.faces)
    assert len(base64.b64decode(data["points"]["rgb"])) == 3 * len(view.points)


def test_large_meshes_are_thinned_without_leaving_the_surface():
    mesh = sphere_mesh(10.0, 400, 200)
    small = decimate(mesh, MOST_FACES).validate()
    assert len(mesh.faces) > 150_000 and 0.8 * MOST_FACES < len(small.faces) <= 1.02 * MOST_FACES
    u = np.arctan2(small.vertices[:, 2], small.vertices[:, 0])
    v = np.arccos(np.clip(small.vertices[:, 1] / np.linalg.norm(small.vertices, axis=1), -1, 1))
    wanted = 10 * (1 + 0.05 * np.sin(5 * u) * np.sin(4 * v))
    assert np.abs(np.linalg.norm(small.vertices, axis=1) - wanted).mean() < 0.05
    assert small.colors.shape == small.vertices.shape


def test_confidence_is_shown_and_survives_thinning(finished):
    import dataclasses

    mesh = sphere_mesh(10.0, 300, 150)
    sure = ((mesh.vertices[:, 1] > 0) * 1.0).astype(np.float32)
    mesh = dataclasses.replace(mesh, confidence=sure)
    small = decimate(mesh, 5000)
    away = np.abs(small.vertices[:, 1]) > 1
    assert np.array_equal(small.confidence[away], (small.vertices[away, 1] > 0).astype(np.float32))
    view = dataclasses.replace(view_3d(finished.sparse, finished.frames, finished.mesh), mesh=small)
    image = confidence_still(view).astype(int)
    yellow, violet = (np.abs(image / (image.sum(-1, keepdims=True) + 1) - c).max(-1) < 0.1 for c in ((0.48, 0.44, 0.08), (0.44, 0.01, 0.54)))  # fmt: skip
    rows = np.arange(len(image))[:, None] + 0 * image[..., 0]
    assert yellow.sum() > 2000 and violet.sum() > 2000 and rows[yellow].mean() < rows[violet].mean()  # y is up
    assert confidence_still(dataclasses.replace(view, mesh=dataclasses.replace(small, confidence=None))) is None


def test_small_meshes_are_left_alone():
    mesh = sphere_mesh(1.0)
    assert decimate(mesh, 10_000) is mesh


def test_far_outliers_do_not_shrink_the_scene(finished):
    s = finished.sparse
    far = np.concatenate([s.points, [[1e5, 0, 0]]])
    model = SparseModel(
        s.cameras, s.cam_from_world, far, np.concatenate([s.colors, s.colors[:1]]), np.ones(len(far)),
        s.track_frame_ids, s.track_keypoint_idx, np.append(s.track_offsets, s.track_offsets[-1]), scale=s.scale,
    )  # fmt: skip
    view = view_3d(model, None, None)
    assert view.radius < 60 and np.abs(view.points).max() < 60 and view.n_points == len(far)


def test_nothing_at_all():
    assert view_3d(empty_model(), None, None) is None
    assert view_3d(empty_model(scale=Scale()), None, Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32))) is None


def test_still_shows_the_surface_and_the_cameras(finished):
    view = view_3d(finished.sparse, finished.frames, finished.mesh)
    image = still(view)
    ground = (image == image[0, 0]).all(-1)
    assert 0.02 < 1 - ground.mean() < 0.9
    assert (np.abs(image.astype(int) - (15, 118, 110)).max(-1) < 40).sum() > 200

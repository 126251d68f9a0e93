# SPDX-License-Identifier: Apache-2.0
"""The phantoms are as exact as they say."""

import numpy as np
import pytest

from medrecon.images import read_rgb
from medrecon.testing import phantoms


@pytest.mark.parametrize("shape", ["plane", "sphere"])
def test_correspondences_obey_epipolar_geometry_and_show_the_same_colour(shape):
    body = phantoms.views(shape, 3, 96, 72)
    xy = np.random.default_rng(0).uniform((2, 2), (94, 70), (800, 2))
    there = body.correspond(0, 2, xy)
    seen = np.isfinite(there[:, 0])
    assert seen.mean() > 0.3
    a, b = body.cam_from_world_mm[0], body.cam_from_world_mm[2]
    relative = b @ a.inverse()
    t = relative.translation
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    x, y = body.camera.unproject(xy[seen]), body.camera.unproject(there[seen])
    assert np.abs(np.einsum("ni,ij,nj->n", y, cross @ relative.rotation, x)).max() < 1e-9
    pixel = lambda image, p: image[p[:, 1].astype(int), p[:, 0].astype(int)].astype(float)  # noqa: E731
    matched = np.abs(pixel(body.images[0], xy[seen]) - pixel(body.images[2], there[seen])).mean()
    shifted = np.abs(pixel(body.images[0], xy[seen]) - pixel(body.images[2], xy[seen])).mean()
    assert matched < 0.5 * shifted


def test_sphere_depth_is_that_of_the_sphere():
    body = phantoms.views("sphere", 1, 64, 48)
    y, x = np.nonzero(body.depths_mm[0])
    rays = body.camera.unproject(np.stack([x, y], -1) + 0.5)
    world = body.cam_from_world_mm[0].inverse().apply(rays * body.depths_mm[0][y, x][:, None])
    assert len(world) > 300
    assert np.allclose(np.linalg.norm(world, axis=1), 10.0, atol=1e-9)
    assert (body.images[0][body.depths_mm[0] == 0] == 0).all()


@pytest.mark.parametrize("metric", ["l2", "hamming"])
def test_true_matches_are_nearest_neighbours_and_follow_the_motion(metric):
    pair = phantoms.feature_pair(metric=metric, dimension=32)
    i, j = pair.true_idx.T
    assert len(i) > 150 and len(set(i)) == len(i) and len(set(j)) == len(j)
    if metric == "l2":
        distance = ((pair.a.descriptors[:, None] - pair.b.descriptors[None]) ** 2).sum(-1)
    else:
        distance = np.unpackbits(pair.a.descriptors[:, None] ^ pair.b.descriptors[None], axis=-1).sum(-1)
    assert (distance[i].argmin(1) == j).mean() > 0.95
    design = np.c_[pair.a.xy[i], np.ones(len(i))]
    residual = pair.b.xy[j] - design @ np.linalg.lstsq(design, pair.b.xy[j], rcond=None)[0]
    assert np.abs(residual).max() < 1e-3


def test_frame_set_is_on_disk_and_its_poses_are_the_truth(tmp_path):
    body = phantoms.views("plane", 2, 40, 30)
    frames = phantoms.frame_set(tmp_path, body, ids=[4, 9], known_poses=True).validate()
    assert [f.frame_id for f in frames.frames] == [4, 9]
    assert np.array_equal(read_rgb(frames.frames[1].image_path), body.images[1])
    assert frames.frames[1].cam_from_world_mm is body.cam_from_world_mm[1]


def test_another_seed_is_another_picture_and_the_same_seed_the_same():
    a, b, c = (phantoms.texture_image(20, 30, seed=s) for s in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert a.std() > 20


def test_unknown_shapes_are_refused():
    with pytest.raises(ValueError, match="plane"):
        phantoms.views("torus")

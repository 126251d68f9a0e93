# SPDX-License-Identifier: Apache-2.0
"""Surface distances whose values are known: shifted planes, concentric spheres."""

import numpy as np
import pytest
from skimage.measure import marching_cubes

from medrecon.errors import InputError
from medrecon.metrics.surface import (
    chamfer,
    distances_to_mesh,
    distances_to_points,
    hausdorff95,
    sample_surface,
    summarise,
    thin,
)
from medrecon.types import Mesh


def plane(z, size=10.0):
    v = np.array([[0, 0, z], [size, 0, z], [size, size, z], [0, size, z]], float)
    return Mesh(v, np.array([[0, 1, 2], [0, 2, 3]], np.int32))


def ball(radius, n=60):
    g = np.stack(np.meshgrid(*[np.linspace(-1.2 * radius, 1.2 * radius, n)] * 3, indexing="ij"), -1)
    v, f, _, _ = marching_cubes(np.linalg.norm(g, axis=-1), radius)
    return Mesh(v * 2.4 * radius / (n - 1) - 1.2 * radius, f.astype(np.int32))


def test_shifted_planes_are_exactly_that_far_apart():
    d = distances_to_mesh(sample_surface(plane(0), 500), plane(1.75))
    assert np.allclose(d, 1.75)
    s = summarise(d)
    assert (s.mean, s.rms, s.p95, s.maximum, s.n) == pytest.approx((1.75, 1.75, 1.75, 1.75, 500))


def test_distance_beyond_the_border_of_a_plane():
    d = distances_to_mesh(np.array([[13.0, 14.0, 12.0], [5, 5, -2], [-3, 5, 4]]), plane(0))
    assert np.allclose(d, [13, 2, 5])


def test_concentric_spheres():
    a, b = ball(20.0), ball(22.0)
    ab = summarise(distances_to_mesh(sample_surface(a, 2000), b))
    ba = summarise(distances_to_mesh(sample_surface(b, 2000), a))
    for s in (ab, ba):
        assert (s.mean, s.rms, s.p95) == pytest.approx((2, 2, 2), abs=0.05)
    assert chamfer(ab, ba) == pytest.approx(2, abs=0.05) and hausdorff95(ab, ba) == max(ab.p95, ba.p95)


def test_a_missing_half_shows_in_one_direction_only():
    whole, half = plane(0, 10), Mesh(plane(0).vertices * [0.5, 1, 1], plane(0).faces)
    to_whole = summarise(distances_to_mesh(sample_surface(half, 4000), whole))
    to_half = summarise(distances_to_mesh(sample_surface(whole, 4000), half))
    assert to_whole.maximum < 1e-9
    # Distances of the missing half run evenly from 0 to 5, the rest is 0: mean 1.25, 95th percentile 4.5.
    assert to_half.mean == pytest.approx(1.25, rel=0.02) and to_half.p95 == pytest.approx(4.5, rel=0.02)
    assert hausdorff95(to_whole, to_half) == to_half.p95


def test_point_cloud_distance_is_at_most_half_a_spacing_too_long():
    x, y = np.meshgrid(np.arange(0, 10, 0.1), np.arange(0, 10, 0.1))
    cloud = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1)
    p = np.random.default_rng(0).uniform(1, 9, (300, 3))
    d = distances_to_points(p, cloud)
    assert ((d - p[:, 2] >= -1e-12) & (d - p[:, 2] < 0.071)).all()


def test_samples_are_even_by_area_and_reproducible():
    v = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [10, 0, 0], [13, 0, 0], [10, 3, 0]], float)
    m = Mesh(v, np.array([[0, 1, 2], [3, 4, 5]], np.int32))
    p = sample_surface(m, 10_000, seed=3)
    assert (p[:, 0] > 5).mean() == pytest.approx(0.9, abs=1e-3)
    small = p[p[:, 0] < 5]
    assert (small.min() >= 0) and (small[:, :2].sum(1) <= 1 + 1e-12).all()
    assert np.allclose(small[:, :2].mean(0), 1 / 3, atol=0.02)
    assert np.array_equal(p, sample_surface(m, 10_000, seed=3))


def test_thin():
    p = np.random.default_rng(0).uniform(-5, 5, (20_000, 3)) + 1000
    q = thin(p, 1.0)
    cells = lambda a: {tuple(c) for c in np.floor(a - p.min(0)).astype(int)}  # noqa: E731
    assert len(q) == len(cells(q)) == len(cells(p))
    assert len(thin(np.zeros((0, 3)), 1.0)) == 0


def test_nothing_to_compare_is_an_error():
    empty = Mesh(np.zeros((3, 3)), np.zeros((0, 3), np.int32))
    for call in (
        lambda: summarise(np.zeros(0)),
        lambda: summarise(np.array([np.nan])),
        lambda: distances_to_mesh(np.zeros((1, 3)), empty),
        lambda: distances_to_points(np.zeros((1, 3)), np.zeros((0, 3))),
        lambda: sample_surface(empty, 5),
    ):
        with pytest.raises(InputError):
            call()

# SPDX-License-Identifier: Apache-2.0
"""Umeyama's alignment against similarities that are known."""

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from medrecon.errors import InputError
from medrecon.sfm.alignment import align_trajectories, umeyama
from medrecon.types import Rigid3, Sim3


def random_sim3(rng) -> Sim3:
    return Sim3(float(np.exp(rng.normal())), Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3) * 10)


@pytest.mark.parametrize("seed", range(10))
def test_recovers_a_random_similarity_exactly(seed):
    rng = np.random.default_rng(seed)
    truth, x = random_sim3(rng), rng.normal(size=(7, 3))
    found = umeyama(x, truth.apply(x))
    assert np.allclose(found.matrix(), truth.matrix(), atol=1e-10)


def test_is_the_least_squares_optimum_under_noise():
    rng = np.random.default_rng(3)
    truth, x = random_sim3(rng), rng.normal(size=(30, 3))
    y = truth.apply(x) + 0.2 * rng.normal(size=x.shape)
    found = umeyama(x, y)

    def residual(p):
        return (p[0] * Rotation.from_rotvec(p[1:4]).apply(x) + p[4:7] - y).ravel()

    start = [found.scale, *Rotation.from_matrix(found.rotation).as_rotvec(), *found.translation]
    better = least_squares(residual, np.array(start) + 0.01 * rng.normal(size=7), xtol=1e-14, ftol=1e-14)
    assert np.allclose(better.x, start, atol=1e-5)
    assert (residual(np.array(start)) ** 2).sum() <= 2 * better.cost * (1 + 1e-9)


def test_never_returns_a_reflection():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3))
    found = umeyama(x, x * [1, 1, -1])
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)
    planar = np.c_[rng.normal(size=(20, 2)), np.zeros(20)]
    truth = random_sim3(rng)
    assert np.allclose(umeyama(planar, truth.apply(planar)).matrix(), truth.matrix(), atol=1e-10)


def test_fixed_scale_is_kept():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(10, 3))
    found = umeyama(x, 3.0 * x + 1.0, fixed_scale=1.0)
    assert found.scale == 1.0
    assert np.allclose(found.rotation, np.eye(3))
    assert np.allclose(found.apply(x).mean(0), (3.0 * x + 1.0).mean(0))


@pytest.mark.parametrize(
    "x", [np.zeros((2, 3)), np.zeros((5, 3)), np.outer(np.arange(5.0), [1, 2, 3]), np.full((4, 3), np.nan)]
)
def test_refuses_what_leaves_the_rotation_open(x):
    with pytest.raises(InputError):
        umeyama(x, x)


def test_refuses_arrays_that_do_not_correspond():
    with pytest.raises(InputError, match="same length"):
        umeyama(np.zeros((4, 3)), np.zeros((5, 3)))


@pytest.mark.parametrize("n", [2, 6])
def test_cameras_on_a_line_are_aligned_by_their_orientations(n):
    rng = np.random.default_rng(n)
    truth = random_sim3(rng)
    a = {}
    for i in range(n):
        r = Rotation.random(random_state=rng).as_matrix()
        a[i] = Rigid3(r, -r @ (np.array([1.0, 2.0, 3.0]) * i + 4.0))
    b = {i: truth.transform_pose(p) for i, p in a.items()}
    assert np.allclose(align_trajectories(a, b).matrix(), truth.matrix(), atol=1e-9)


def test_trajectories_need_two_places():
    pose = {0: Rigid3(), 1: Rigid3()}
    with pytest.raises(InputError, match="one place"):
        align_trajectories(pose, pose)
    with pytest.raises(InputError, match="two common cameras"):
        align_trajectories({0: Rigid3()}, {1: Rigid3()})

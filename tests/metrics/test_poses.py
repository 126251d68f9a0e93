# SPDX-License-Identifier: Apache-2.0
"""Pose errors against hand-made examples."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medrecon.errors import InputError
from medrecon.metrics.poses import pose_errors, relative_pose_errors, rotation_angle_deg
from medrecon.types import Rigid3, Sim3


def at(center, rotation=None) -> Rigid3:
    rotation = np.eye(3) if rotation is None else rotation
    return Rigid3(rotation, -rotation @ np.asarray(center, float))


SQUARE = {0: at([0, 0, 0]), 1: at([10, 0, 0]), 2: at([10, 10, 0]), 3: at([0, 10, 0])}


@pytest.mark.parametrize("angle", [0.0, 1e-7, 0.3, 45.0, 90.0, 179.0, 180.0])
def test_rotation_angle(angle):
    axis = np.array([1.0, -2.0, 0.5]) / np.linalg.norm([1.0, -2.0, 0.5])
    r = Rotation.from_rotvec(np.radians(angle) * axis).as_matrix()
    assert rotation_angle_deg(r) == pytest.approx(angle, rel=1e-6, abs=1e-12)


def test_a_similarity_is_no_error():
    rng = np.random.default_rng(0)
    truth = Sim3(0.3, Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3))
    moved = {i: truth.transform_pose(p) for i, p in SQUARE.items()}
    e = pose_errors(moved, SQUARE)
    assert e.ate < 1e-9 and e.rotation_deg.max() < 1e-6
    assert e.reference_from_estimate.scale == pytest.approx(1 / 0.3)
    r = relative_pose_errors(moved, SQUARE)
    assert r.rpe < 1e-9 and r.rotation_deg.max() < 1e-6


def test_ate_by_hand_without_alignment():
    estimate = {**SQUARE, 1: at([10, 3, 4])}
    e = pose_errors(estimate, SQUARE, Sim3())
    assert e.center.tolist() == [0, 5, 0, 0]
    assert e.ate == pytest.approx(np.sqrt(25 / 4))


def test_ate_by_hand_with_alignment():
    # The estimate is the square with opposite corners pushed out of plane by +-1: no similarity helps, by symmetry.
    estimate = {i: at(p.center + [0, 0, (-1.0) ** i]) for i, p in SQUARE.items()}
    e = pose_errors(estimate, SQUARE)
    # Best scale s minimises 4*(s*1)^2 + 4*50*(1-s)^2 -> s = 50/51.
    s = 50 / 51
    assert e.reference_from_estimate.scale == pytest.approx(s)
    assert e.ate == pytest.approx(np.sqrt(s**2 + 50 * (1 - s) ** 2))


def test_rotation_error_by_hand():
    tilt = Rotation.from_euler("x", 7, degrees=True).as_matrix()
    estimate = {**SQUARE, 2: at(SQUARE[2].center, tilt)}
    e = pose_errors(estimate, SQUARE)
    assert e.ate < 1e-9
    assert e.rotation_deg == pytest.approx([0, 0, 7, 0], abs=1e-6)
    r = relative_pose_errors(estimate, SQUARE)
    assert r.pairs == ((0, 1), (1, 2), (2, 3))
    assert r.rotation_deg == pytest.approx([0, 7, 7], abs=1e-6)


def test_relative_error_sees_drift_once():
    # One step is 1 mm too long; every later camera is off, but only one relative motion is.
    estimate = {i: at([10.0 * i + (1.0 if i >= 2 else 0.0), 0, 0]) for i in range(5)}
    reference = {i: at([10.0 * i, 0, 0]) for i in range(5)}
    r = relative_pose_errors(estimate, reference, reference_from_estimate=Sim3())
    assert r.translation == pytest.approx([0, 1, 0, 0], abs=1e-9)
    assert r.rpe == pytest.approx(0.5)


def test_only_common_frames_count():
    e = pose_errors({**SQUARE, 9: at([99, 0, 0])}, SQUARE)
    assert e.frame_ids == (0, 1, 2, 3)
    with pytest.raises(InputError, match="in common"):
        pose_errors({9: at([0, 0, 0])}, SQUARE)
    with pytest.raises(InputError, match="both trajectories"):
        relative_pose_errors(SQUARE, SQUARE, pairs=[(0, 9)])

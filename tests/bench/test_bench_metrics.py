# SPDX-License-Identifier: Apache-2.0
"""Figures of merit against closed forms, numerical integration and Monte Carlo."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medrecon.bench import metrics
from medrecon.bench.geometry import HomographyPair
from medrecon.types import Rigid3

SIZE = (200, 160)
H = np.array([(1.1, 0.1, -9.0), (-0.05, 0.95, 6.0), (2e-4, -1e-4, 1.0)])
TRUTH = HomographyPair(H, SIZE, SIZE)
POINTS = np.array([(40.0, 50.0), (90.0, 40.0), (120.0, 110.0), (60.0, 100.0), (150.0, 70.0)])


def mapped(xy, homography=H):
    """Point by point, as in a textbook."""
    out = []
    for x, y in xy:
        p = homography @ [x, y, 1.0]
        out.append(p[:2] / p[2])
    return np.array(out)


def test_one_of_five_matches_moved_gives_precision_of_four_fifths():
    seen = mapped(POINTS)
    seen[2] += (4.0, 0.0)
    error, judged = metrics.match_errors_px(POINTS, seen, TRUTH)
    assert judged.all()
    assert np.allclose(error, [0, 0, 4, 0, 0], atol=1e-9)
    for threshold, accuracy in ((1, 0.8), (3, 0.8), (3.999, 0.8), (4.001, 1.0), (5, 1.0)):
        assert metrics.matching_accuracy(error, judged, threshold) == accuracy


def test_accuracy_without_matches_is_zero_and_unjudged_ones_do_not_count():
    assert metrics.matching_accuracy(np.zeros(0), np.zeros(0, bool), 3) == 0.0
    error, judged = np.array([0.5, np.inf, 7.0]), np.array([True, False, True])
    assert metrics.matching_accuracy(error, judged, 3) == 0.5


def test_a_match_that_leaves_the_picture_is_wrong():
    outside = HomographyPair(np.array([(1, 0, 500.0), (0, 1, 0), (0, 0, 1)]), SIZE, SIZE)
    error, judged = metrics.match_errors_px(POINTS, POINTS, outside)
    assert judged.all() and np.isinf(error).all()


def test_repeatability_of_a_constructed_set():
    # b finds three of a's five points again, one of them 2.5 px away, and two that a does not have.
    seen = mapped(POINTS)
    b = np.concatenate([seen[:3], [(20.0, 20.0), (25.0, 140.0)]])
    b[1] += (0.0, 2.5)
    back = mapped(b, np.linalg.inv(H))
    # Independent count: distances one by one, in each picture's own pixels.
    found_a = sum(min(np.hypot(*(s - q)) for q in b) <= 3 for s in seen)
    found_b = sum(min(np.hypot(*(s - q)) for q in POINTS) <= 3 for s in back)
    assert (found_a, found_b) == (3, 3)
    assert metrics.repeatability(POINTS, b, TRUTH) == pytest.approx(6 / 10)


def test_repeatability_leaves_out_what_only_one_picture_shows():
    shift = HomographyPair(np.array([(1.0, 0, 100), (0, 1, 0), (0, 0, 1)]), SIZE, SIZE)
    a = np.array([(50.0, 50.0), (150.0, 50.0)])  # the second leaves the picture
    b = np.array([(150.0, 50.0), (20.0, 50.0)])  # the second was not in a
    assert metrics.repeatability(a, b, shift) == 1.0
    assert metrics.repeatability(a[1:], b[1:], shift) is None


def test_true_matches_are_mutual_and_within_reach():
    seen = mapped(POINTS)
    b = np.concatenate([seen + (0.5, 0.0), seen[:1] + (0.1, 0.0)])  # point 0 has a nearer rival, at index 5
    found = metrics.true_matches(POINTS, b, TRUTH)
    assert {tuple(m) for m in found} == {(0, 5), (1, 1), (2, 2), (3, 3), (4, 4)}
    assert len(metrics.true_matches(POINTS, seen + 50, TRUTH)) == 0
    assert metrics.true_matches(np.zeros((0, 2)), b, TRUTH).shape == (0, 2)


def numeric_auc(errors, threshold, steps=200001):
    """The area under the piecewise linear cumulative curve, by sampling it."""
    e = np.sort(errors)
    x = np.concatenate([[0.0], e])
    y = np.arange(len(e) + 1) / len(e)
    grid = np.linspace(0, threshold, steps)
    # Beyond the last error within the threshold the curve stays flat (what lies beyond cannot be seen).
    inside = x <= threshold
    curve = np.interp(grid, x[inside], y[inside])
    return np.trapezoid(curve, grid) / threshold if hasattr(np, "trapezoid") else np.trapz(curve, grid) / threshold


@pytest.mark.parametrize("seed", range(4))
def test_auc_is_the_integral_of_the_cumulative_curve(seed):
    random = np.random.default_rng(seed)
    errors = random.exponential(8.0, 37)
    errors[:3] = np.inf
    for threshold, area in zip((5.0, 10.0, 20.0), metrics.auc(errors, (5.0, 10.0, 20.0))):
        assert area == pytest.approx(numeric_auc(errors, threshold), abs=1e-4)


def test_auc_at_its_ends():
    assert metrics.auc(np.zeros(7), (5.0,)) == [1.0]
    assert metrics.auc(np.full(7, np.inf), (5.0, 10.0)) == [0.0, 0.0]
    assert metrics.auc(np.zeros(0), (5.0,)) == [0.0]
    # One error of 2 under a threshold of 4: a triangle up to 2, then flat.
    assert metrics.auc(np.array([2.0]), (4.0,))[0] == pytest.approx((2 / 2 + 2) / 4)


def test_pose_error_is_the_greater_of_two_known_angles():
    random = np.random.default_rng(3)
    for turn_deg, tilt_deg in ((0.0, 0.0), (7.0, 3.0), (2.0, 11.0), (1e-5, 0.0), (170.0, 5.0)):
        truth = Rigid3(Rotation.random(random_state=5).as_matrix(), random.normal(size=3))
        axis = random.normal(size=3)
        turn = Rotation.from_rotvec(np.radians(turn_deg) * axis / np.linalg.norm(axis)).as_matrix()
        across = np.cross(truth.translation, random.normal(size=3))
        tilt = Rotation.from_rotvec(np.radians(tilt_deg) * across / np.linalg.norm(across)).as_matrix()
        estimate = Rigid3(turn @ truth.rotation, 17.0 * (tilt @ truth.translation))
        assert metrics.pose_error_deg(estimate, truth) == pytest.approx(max(turn_deg, tilt_deg), abs=1e-7)
    flipped = Rigid3(truth.rotation, -truth.translation)
    assert metrics.pose_error_deg(flipped, truth) == pytest.approx(180.0)
    assert metrics.pose_error_deg(None, truth) == np.inf


def test_corner_error():
    moved = np.array([(1, 0, 3.0), (0, 1, 4.0), (0, 0, 1)]) @ H
    assert metrics.corner_error_px(moved, H, SIZE) == pytest.approx(5.0)
    assert metrics.corner_error_px(None, H, SIZE) == np.inf


def test_clark_evans_is_one_for_random_points_and_more_for_a_lattice():
    random = np.random.default_rng(0)
    grey = random.integers(0, 255, (512, 512)).astype(np.uint8)
    ratios = [metrics.spread(random.uniform(0, 512, (1500, 2)), grey).clark_evans for _ in range(8)]
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.05)  # without border correction it lies a little above
    lattice = np.stack(np.meshgrid(np.arange(8, 512, 16), np.arange(8, 512, 16)), -1).reshape(-1, 2)
    assert metrics.spread(lattice, grey).clark_evans == pytest.approx(2.0, rel=1e-9)  # 16 / (0.5 * 16)
    assert metrics.spread(lattice[:1], grey).clark_evans is None


def test_low_texture_cells_and_occupation_by_hand():
    # Six columns of cells; the two at the left are flat, each further one rougher than the last.
    random = np.random.default_rng(1)
    grey = np.full((64, 96), 100, np.uint8)
    for c in range(2, 6):
        grey[:, 16 * c : 16 * c + 16] = 100 + random.integers(-10 * c, 10 * c, (64, 16))
    xy = np.array([(8.0, 8.0), (9.0, 9.0), (24.0, 40.0), (88.0, 8.0)])  # three cells, two of them flat
    got = metrics.spread(xy, grey)
    assert got.occupied == pytest.approx(3 / 24)
    assert got.low_texture == pytest.approx(2 / 8)
    usable = np.zeros(grey.shape, bool)
    usable[:, 48:] = True
    assert metrics.spread(xy, grey, usable).occupied == pytest.approx(1 / 12)
    assert metrics.spread(xy, grey, np.zeros_like(usable)).occupied is None

# SPDX-License-Identifier: Apache-2.0
"""True correspondences on scenes whose answer can be written down."""

import numpy as np
import pytest

from medrecon.bench.geometry import DepthPair, HomographyPair, foreground, transfer, with_hidden
from medrecon.types import Camera, Rigid3

W, HEIGHT, F = 160, 120, 150.0
CAMERA = Camera("PINHOLE", W, HEIGHT, (F, F, W / 2, HEIGHT / 2))
NEAR, FAR = 100.0, 200.0
BASELINE = 20.0


def two_planes():
    """A wall at 200 mm; before its middle a board at 100 mm, 40 mm wide. Camera b stands 20 mm to the right."""
    depth = {}
    for name, eye in (("a", 0.0), ("b", BASELINE)):
        x = (np.arange(W) + 0.5 - W / 2) / F
        board = np.abs(eye + x * NEAR) <= 20.0
        depth[name] = np.where(np.broadcast_to(board, (HEIGHT, W)), NEAR, FAR).astype(np.float32)
    still = Rigid3(np.eye(3), np.zeros(3))
    right = Rigid3(np.eye(3), np.array([-BASELINE, 0.0, 0.0]))
    return DepthPair(CAMERA, still, right, depth["a"], depth["b"])


def test_points_move_by_their_disparity():
    truth = two_planes()
    board, wall = np.array([(80.0, 60.0)]), np.array([(140.0, 30.0)])
    for xy, z in ((board, NEAR), (wall, FAR)):
        there, known, visible = truth.a_to_b(xy)
        assert known.all() and visible.all()
        assert np.allclose(there, xy - (F * BASELINE / z, 0), atol=1e-9)
        back, known, visible = truth.b_to_a(there)
        assert known.all() and visible.all()
        assert np.allclose(back, xy, atol=1e-9)


def test_what_the_board_hides_is_known_but_not_visible():
    truth = two_planes()
    # In b the board covers x_world in [-20, 20] at 100 mm: of the wall, x_world from -60 to 20. Camera a sees the wall
    # left of -40 and right of 40.
    x_world = np.array([-70.0, -65.0, -55.0, -50.0, -45.0, 45.0])
    xy = np.stack([x_world / FAR * F + W / 2, np.full(6, 20.0)], 1)
    _, known, visible = truth.a_to_b(xy)
    assert known.all()
    in_b = (x_world - BASELINE) / FAR * F + W / 2
    expected = (in_b >= 0) & ~((x_world >= -60) & (x_world <= 20))
    assert visible.tolist() == expected.tolist()
    assert visible.tolist() != [True] * 6


def test_outside_the_picture_and_off_the_object():
    truth = two_planes()
    empty = DepthPair(CAMERA, truth.cam_a_from_world, truth.cam_b_from_world, truth.depth_a * 0, truth.depth_b)
    _, known, visible = empty.a_to_b(np.array([(80.0, 60.0)]))
    assert not known.any() and not visible.any()
    _, known, visible = truth.a_to_b(np.array([(2.0, 60.0), (-5.0, 60.0), (np.nan, 1.0)]))
    assert known.tolist() == [True, False, False] and not visible.any()  # 15 px of disparity leave the picture


def test_a_corner_on_an_edge_belongs_to_what_lies_in_front():
    truth = two_planes()
    # The board ends at x = 110 in a: one pixel beyond still counts as the board, two are the wall.
    xy = np.array([(109.5, 60.0), (110.5, 60.0), (111.5, 60.0)])
    there, known, visible = truth.a_to_b(xy)
    assert known.all() and visible.all()
    assert np.allclose(xy[:, 0] - there[:, 0], [F * BASELINE / NEAR] * 2 + [F * BASELINE / FAR])
    depth = np.zeros((5, 7), np.float32)
    depth[2, 3] = 50.0
    grown = foreground(depth)
    assert (grown[1:4, 2:5] == 50).all() and grown.sum() == 9 * 50
    slope = np.tile(np.linspace(100, 110, 40, dtype=np.float32), (5, 1))
    assert (foreground(slope) == slope).all()


def test_a_covered_part_of_b_shows_nothing():
    truth = two_planes()
    hidden = np.zeros((HEIGHT, W), bool)
    hidden[:, 40:60] = True
    covered = with_hidden(truth, hidden)
    xy = np.array([(80.0, 60.0), (95.0, 60.0)])  # the board moves 30 px: to 50 and 65
    assert covered.a_to_b(xy)[2].tolist() == [False, True]
    _, known, _ = covered.b_to_a(np.array([(50.0, 60.0), (65.0, 60.0)]))
    assert known.tolist() == [False, True]
    assert with_hidden(truth, None) is truth


def test_homography_and_its_valid_part():
    valid = np.ones((HEIGHT, W), bool)
    valid[:, :30] = False
    shift = np.array([(1.0, 0, 10), (0, 1, 0), (0, 0, 1)])
    truth = HomographyPair(shift, (W, HEIGHT), (W, HEIGHT), valid)
    there, known, visible = truth.a_to_b(np.array([(10.0, 5.0), (25.0, 5.0), (155.0, 5.0)]))
    assert np.allclose(there[:, 0], [20, 35, 165])
    assert known.all() and visible.tolist() == [False, True, False]
    back, known, visible = truth.b_to_a(np.array([(20.0, 5.0), (35.0, 5.0)]))
    assert known.tolist() == [False, True] and np.allclose(back[1], (25, 5))


def test_points_beyond_the_horizon_are_nowhere():
    tilt = np.array([(1.0, 0, 0), (0, 1, 0), (-0.01, 0, 1)])
    there = transfer(tilt, [(50.0, 10.0), (150.0, 10.0)])
    assert there[0] == pytest.approx([100.0, 20.0]) and np.isnan(there[1]).all()

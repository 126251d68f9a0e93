# SPDX-License-Identifier: Apache-2.0
"""What is drawn lies where it should; error and depth maps say what their captions say."""

import base64

import numpy as np
import pytest

from medrecon.images import cv2
from medrecon.report import pictures
from medrecon.types import Features, Matches, TwoView


def features(xy, size):
    n = len(xy)
    return Features(np.float32(xy), np.ones(n, np.float32), np.ones((n, 2), np.float32), "l2", size, "test")


def marked(image, color, tolerance=60):
    y, x = np.nonzero(np.abs(image.astype(int) - color).max(-1) < tolerance)
    return x + 0.5, y + 0.5


def test_keypoints_are_drawn_at_pixel_centres():
    found = pictures.draw_keypoints(np.zeros((50, 80, 3), np.uint8), features([[30.5, 20.5]], (80, 50)))
    x, y = marked(found, pictures.KEYPOINT)
    assert len(x) >= 5 and x.mean() == pytest.approx(30.5, abs=0.05) and y.mean() == pytest.approx(20.5, abs=0.05)


def test_keypoints_follow_the_scaling():
    found = pictures.draw_keypoints(np.zeros((400, 800, 3), np.uint8), features([[600, 100]], (800, 400)), width_px=400)
    x, y = marked(found, pictures.KEYPOINT)
    assert found.shape == (200, 400, 3)
    assert x.mean() == pytest.approx(300, abs=0.3) and y.mean() == pytest.approx(50, abs=0.3)


def test_matches_join_the_right_points_and_show_which_survived():
    a, b = features([[10.5, 10.5], [10.5, 40.5]], (80, 60)), features([[70.5, 12.5], [70.5, 45.5]], (80, 60))
    pair = TwoView(
        0, 1, Matches(np.int32([[0, 0], [1, 1]]), np.ones(2, np.float32)), np.array([True, False]), "essential"
    )
    black = np.zeros((60, 80, 3), np.uint8)
    canvas = pictures.draw_matches(black, black, a, b, pair)
    assert canvas.shape == (60, 168, 3)
    for color, left, right in ((pictures.INLIER, 10.5, 12.5), (pictures.REJECTED, 40.5, 45.5)):
        x, y = marked(canvas, color)
        assert x.min() < 12 and x.max() > 156
        assert y[x < 12].mean() == pytest.approx(left, abs=1) and y[x > 156].mean() == pytest.approx(right, abs=1)


def test_pictures_are_only_made_smaller():
    assert pictures.fit(np.zeros((30, 40, 3), np.uint8), 400).shape == (30, 40, 3)
    assert pictures.fit(np.zeros((300, 400, 3), np.uint8), 100).shape == (75, 100, 3)
    assert pictures.fit(np.zeros((4000, 10, 3), np.uint8), 100).shape[0] == 200


def test_error_map_is_dark_where_equal_bright_where_not_and_grey_where_masked():
    a = np.full((4, 6, 3), 100, np.uint8)
    b = a.copy()
    b[0] += 64  # a quarter of full scale
    mask = np.ones((4, 6), bool)
    mask[3] = False
    shown = pictures.error_map(a, b, mask)
    assert shown[1].max() < 10 and shown[0].min(-1).mean() > 100 and (shown[3] == 128).all()


def test_depth_map_tells_its_range_and_marks_what_was_not_hit():
    depth = np.zeros((10, 10), np.float32)
    depth[:, 2:] = np.linspace(20, 40, 8)
    colored, low, high = pictures.depth_map(depth)
    assert 20 <= low < 22 and 38 < high <= 40
    assert (colored[:, :2] == 128).all()
    assert colored[:, 2].sum(-1).mean() > colored[:, 9].sum(-1).mean()
    assert pictures.depth_map(np.zeros((3, 3)))[1:] == (0.0, 0.0)


def test_embedded_pictures_decode_to_what_went_in():
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 0] = 200
    picture = pictures.embed(image, "red", quality=90)
    raw = np.frombuffer(base64.b64decode(picture.uri.partition(",")[2]), np.uint8)
    back = cv2.imdecode(raw, cv2.IMREAD_COLOR)[..., ::-1]
    assert picture.uri.startswith("data:image/webp;base64,")
    assert (picture.width, picture.height) == (30, 20) and np.abs(back.astype(int) - image).max() < 12

# SPDX-License-Identifier: Apache-2.0
"""What the scripts in benchmarks/ compute of their pictures: fitted colours, halves that count, detail."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import appearance  # noqa: E402
import multiscale  # noqa: E402


def picture(seed, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (24, 32, 3)).astype(np.uint8)


def test_colours_are_fitted_to_the_left_half_alone():
    image = picture(0, 40, 120)
    true = image * np.array([1.5, 0.5, 1.0]) + np.array([10, 20, -30])
    fitted = appearance.colours_fitted(image, np.rint(true).astype(np.uint8))
    assert np.abs(fitted - true).max() <= 1
    other = np.rint(true).astype(np.uint8)
    other[:, 16:] = 255
    assert (appearance.colours_fitted(image, other) == fitted).all()


def test_a_picture_that_taught_something_counts_by_its_right_half_only():
    true = picture(1, 20, 200)
    shown = true.copy()
    shown[:, 16:] += 10
    views, truth = {3: (shown, None)}, {3: true}
    told, untold = (appearance.measure(views, truth, whole) for whole in (False, True))
    assert told["psnr_right"] == untold["psnr_right"] == pytest.approx(20 * np.log10(255 / 10))
    assert untold["psnr_whole"] == pytest.approx(20 * np.log10(255 / 10) + 10 * np.log10(2))
    assert told["psnr_whole"] is None and told["ssim_whole"] is None and untold["ssim_whole"] is not None


def test_detail_tells_blurred_from_aliased():
    true = picture(2)
    blurred, sharp = cv2.GaussianBlur(true, (0, 0), 1.0), picture(3, 0, 2) * 255
    detail = lambda image: multiscale.measure({0: [(image, true)] * 4})[0]["detail"]  # noqa: E731
    assert detail(true) == pytest.approx(1) and detail(blurred) < 0.5 and detail(sharp) > 1.3

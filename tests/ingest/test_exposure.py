# SPDX-License-Identifier: Apache-2.0
"""What gain, gamma and white balance do to a picture, and how far they stray."""

import numpy as np
import pytest

from medrecon.ingest.exposure import Exposure
from medrecon.ingest.views import ViewsSourceConfig


def drawn(n=4000, **options):
    config = ViewsSourceConfig(path="volume.nii.gz", **options)
    return [Exposure.draw(config, np.random.default_rng([0, i])) for i in range(n)]


def test_the_formula():
    rgb = np.array([[[0.25, 0.5, 0.1]]], np.float32)
    assert Exposure((2.0, 0.5, 1.0), 2.0).apply(rgb)[0, 0] == pytest.approx([0.25, 0.0625, 0.01])
    assert (Exposure().apply(rgb) == rgb).all() and Exposure().apply(rgb).dtype == np.float32


def test_the_spread_is_what_was_asked_for():
    options = {"exposure_jitter": 0.3, "gamma_jitter": 0.2, "white_balance_jitter": 0.1}
    gains = np.log([e.gain for e in drawn(**options)])
    gammas = np.log([e.gamma for e in drawn(**options)])
    assert gains[:, 1].std() == pytest.approx(0.3, rel=0.05) and gammas.std() == pytest.approx(0.2, rel=0.05)
    for channel in (0, 2):
        assert (gains[:, channel] - gains[:, 1]).std() == pytest.approx(0.1, rel=0.05)
    assert abs(np.corrcoef(gains[:, 1], gammas)[0, 1]) < 0.05
    # One in four strays twice as far: the variance is 3/4 + 4/4 of what it was.
    strong = np.log([e.gamma for e in drawn(**options, strong_share=0.25)])
    assert strong.std() == pytest.approx(0.2 * np.sqrt(0.75 + 4 * 0.25), rel=0.05)


def test_nothing_asked_for_changes_nothing():
    assert drawn(3, strong_share=1.0) == [Exposure()] * 3

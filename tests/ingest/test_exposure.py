# SPDX-License-Identifier: Apache-2.0
"""What gain, gamma, white balance and noise do to a picture, and how far they stray."""

import numpy as np
import pytest

import medrecon
from medrecon.images import write_png
from medrecon.ingest.degradation import Degradation
from medrecon.ingest.exposure import Exposure
from medrecon.ingest.views import ViewsSourceConfig
from medrecon.progress import Quiet


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


def test_real_pictures_can_be_degraded(tmp_path):
    """Noise of the spread that was asked for, half the light, the same again with the same seed; grey stays grey."""
    image = np.full((64, 80, 3), 120, np.uint8)
    noisy = Degradation(gain=0.5, noise_sigma=6.0, seed=3)
    spoilt = noisy.apply(image, 7)
    assert spoilt.dtype == np.uint8 and spoilt.mean() == pytest.approx(60, abs=0.3)
    assert spoilt.astype(float).std() == pytest.approx(6.0, rel=0.05)
    assert (noisy.apply(image, 7) == spoilt).all() and (noisy.apply(image, 8) != spoilt).any()
    assert (Degradation().apply(image, 0) == image).all()
    grey = Degradation(gain=0.5, white_balance_jitter=0.5).apply(image[..., 0], 0)
    assert grey.shape == (64, 80) and (grey == 60).all()
    for i in range(2):
        write_png(tmp_path / f"{i}.png", image)
    config = {"path": tmp_path, "degrade": {"noise_sigma": 6.0, "seed": 3}}
    frames = medrecon.create("source", "image-folder", **config).read(tmp_path / "out", Quiet())
    assert (frames.frames[1].load_image() == Degradation(noise_sigma=6.0, seed=3).apply(image, 1)).all()
    assert "degraded on purpose" in frames.notes

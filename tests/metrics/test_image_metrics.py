# SPDX-License-Identifier: Apache-2.0
"""Image metrics against scikit-image, naive formulas and (where the weights lie here) LPIPS itself."""

import pickle

import numpy as np
import pytest
from scipy.signal import convolve2d
from skimage import data
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from medrecon import assets
from medrecon.builtins import COMPONENTS
from medrecon.errors import AssetError, InputError
from medrecon.metrics.images import (
    Mae,
    MaeConfig,
    MsSsim,
    MsSsimConfig,
    Nrmse,
    NrmseConfig,
    Psnr,
    PsnrConfig,
    Ssim,
    SsimConfig,
)
from medrecon.metrics.lpips import Lpips, LpipsConfig, _read_arrays

PSNR, SSIM, MS, MAE, NRMSE = (
    Psnr(PsnrConfig()), Ssim(SsimConfig()), MsSsim(MsSsimConfig()), Mae(MaeConfig()), Nrmse(NrmseConfig()),
)  # fmt: skip
ALL = [PSNR, SSIM, MS, MAE, NRMSE]


@pytest.fixture(scope="module")
def pair():
    reference = data.astronaut()[:203, :260]
    noisy = reference + np.random.default_rng(0).normal(0, 18, reference.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), reference


def test_against_scikit_image(pair):
    image, reference = pair
    assert PSNR.measure(image, reference) == pytest.approx(peak_signal_noise_ratio(reference, image))
    assert NRMSE.measure(image, reference) == pytest.approx(
        normalized_root_mse(reference, image, normalization="min-max")
    )
    expected = structural_similarity(
        image, reference, channel_axis=2, gaussian_weights=True, use_sample_covariance=False, data_range=255
    )
    assert SSIM.measure(image, reference) == pytest.approx(expected, abs=1e-9)
    assert MAE.measure(image, reference) == pytest.approx(np.abs(image / 255 - reference / 255).mean())


def naive_ms_ssim(x, y, scales):
    """Wang 2003 by plain "valid" convolution, one channel."""
    g = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(g, g) / g.sum() ** 2
    f = lambda a: convolve2d(a, window, "valid")  # noqa: E731
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    weights /= weights.sum()
    out = 1.0
    for k in range(scales):
        mx, my = f(x), f(y)
        vx, vy, c = f(x * x) - mx**2, f(y * y) - my**2, f(x * y) - mx * my
        cs = (2 * c + 0.0009) / (vx + vy + 0.0009)
        lum = (2 * mx * my + 0.0001) / (mx**2 + my**2 + 0.0001)
        out *= max((cs * lum).mean() if k == scales - 1 else cs.mean(), 0) ** weights[k]
        h, w = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
        x, y = ((a[:h:2, :w:2] + a[1:h:2, :w:2] + a[:h:2, 1:w:2] + a[1:h:2, 1:w:2]) / 4 for a in (x, y))
    return out


@pytest.mark.parametrize("crop,scales", [(203, 5), (175, 4), (60, 3), (21, 1)])
def test_ms_ssim_against_the_plain_formula(pair, crop, scales):
    image, reference = (p[:crop, :crop] for p in pair)
    assert MS.scales(crop, crop) == scales
    expected = np.mean([naive_ms_ssim(image[..., c] / 255, reference[..., c] / 255, scales) for c in range(3)])
    assert MS.measure(image, reference) == pytest.approx(expected, abs=1e-9)


def test_identical_pictures(pair):
    _, r = pair
    assert [m.measure(r, r) for m in (SSIM, MS, MAE, NRMSE)] == pytest.approx([1, 1, 0, 0])
    assert PSNR.measure(r, r) == 100.0


@pytest.mark.parametrize("metric", ALL, ids=lambda m: type(m).__name__)
def test_what_the_mask_hides_has_no_influence(pair, metric):
    image, reference = pair
    mask = np.zeros(image.shape[:2], bool)
    yy, xx = np.mgrid[: mask.shape[0], : mask.shape[1]]
    mask[(yy - 100) ** 2 + (xx - 120) ** 2 < 90**2] = True
    value = metric.measure(image, reference, mask)
    spoilt, other = image.copy(), reference.copy()
    spoilt[~mask], other[~mask] = 255, np.random.default_rng(1).integers(0, 256, other[~mask].shape)
    assert metric.measure(spoilt, other, mask) == pytest.approx(value, abs=1e-12)
    assert metric.measure(image, reference, np.ones_like(mask)) == pytest.approx(metric.measure(image, reference))


@pytest.mark.parametrize("metric", ALL, ids=lambda m: type(m).__name__)
def test_bad_input(pair, metric):
    image, reference = pair
    for a, b, mask in (
        (image, reference[:-1], None),
        (image.astype(float), reference.astype(float), None),
        (image, reference, np.zeros(image.shape[:2], bool)),
        (image, reference, np.ones(image.shape[:2])),
    ):
        with pytest.raises(InputError):
            metric.measure(a, b, mask)


def test_too_small_and_constant(pair):
    image, reference = (p[:10, :40] for p in pair)
    for metric in (SSIM, MS):
        with pytest.raises(InputError, match="11 px"):
            metric.measure(image, reference)
    flat = np.full((20, 20, 3), 7, np.uint8)
    with pytest.raises(InputError, match="constant"):
        NRMSE.measure(flat, flat)
    assert 0 < SSIM.measure(flat, flat + np.uint8(60)) < 1


def test_lpips_without_weights_says_how_to_get_them(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRECON_HOME", str(tmp_path))
    with pytest.raises(AssetError, match="medrecon weights fetch lpips-alexnet"):
        Lpips(LpipsConfig()).measure(*pair)


class _Evil:
    def __reduce__(self):
        return (print, ("the pickle ran code",))


def test_a_pickle_that_calls_anything_is_refused(tmp_path, capsys):
    path = tmp_path / "alexnet.ckpt"
    for content in (_Evil(), {"AlexNet_0": _Evil()}, [1, 2]):
        path.write_bytes(pickle.dumps(content, protocol=3))
        with pytest.raises(AssetError):
            _read_arrays(path)
    assert "ran code" not in capsys.readouterr().out
    arrays = {"AlexNet_0": {"Conv_0": {"bias": np.arange(3, dtype=np.float32)}}}
    path.write_bytes(pickle.dumps(arrays, protocol=3))
    assert np.array_equal(_read_arrays(path)["AlexNet_0"]["Conv_0"]["bias"], [0, 1, 2])


@pytest.mark.skipif(assets.path("lpips-alexnet") is None, reason="needs `medrecon weights fetch lpips-alexnet`")
def test_lpips(pair):
    import torch

    image, reference = pair
    metric = Lpips(LpipsConfig())
    state = torch.random.get_rng_state()
    value = metric.measure(image, reference)
    assert torch.equal(state, torch.random.get_rng_state())  # loading takes nothing from the global generator
    assert metric.measure(reference, reference) == 0
    assert 0 < value < 1
    # Standard LPIPS written out: unit-normalised features, squared differences, learned weights, spatial mean.
    net = metric._module
    to = lambda x: torch.from_numpy(x.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1  # noqa: E731
    shift, spread = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    total = 0.0
    with torch.no_grad():
        fa, fb = (net.net((to(x) - shift[None, :, None, None]) / spread[None, :, None, None]) for x in pair)
        for a, b, lin in zip(fa, fb, net.lins):
            a, b = (f / (f.norm(dim=1, keepdim=True) + 1e-10) for f in (a, b))
            total += float((((a - b) ** 2) * lin.model[-1].weight).sum(1).mean())
    assert value == pytest.approx(total, rel=1e-4)
    mask = np.zeros(image.shape[:2], bool)
    mask[40:160, 40:200] = True
    spoilt = image.copy()
    spoilt[~mask] = 0
    assert metric.measure(spoilt, reference, mask) == pytest.approx(metric.measure(image, reference, mask))
    with pytest.raises(InputError, match="64 px"):
        metric.measure(image[:50], reference[:50])


def test_every_registered_metric_fits_the_contract():
    from medrecon.plugins.contracts import ImageMetric

    for c in COMPONENTS:
        if c.kind == "metric":
            assert isinstance(c.load_factory()(c.load_config()()), ImageMetric)

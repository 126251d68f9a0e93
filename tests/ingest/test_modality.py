# SPDX-License-Identifier: Apache-2.0
"""Pictures prepared for matching: known fields are removed, OpenCV's CLAHE is met, masks and odd pictures are honoured."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linprog
from skimage.data import shepp_logan_phantom

from medrecon.config import load_config
from medrecon.config.schema import json_schema
from medrecon.errors import ConfigError
from medrecon.features import extract_all
from medrecon.features.sift import SiftExtractor, SiftExtractorConfig
from medrecon.images import cv2, write_png
from medrecon.ingest.bias_field import _least_absolute, estimate_bias_field
from medrecon.ingest.modality import KINDS, ModalityConfig, guess_kind, prepare_for_matching, preprocessing
from medrecon.pipeline.cache import stage_keys
from medrecon.progress import Quiet
from medrecon.testing import phantoms
from medrecon.types import Features, Frame, FrameSet

OPTIONS = [
    *(ModalityConfig(kind=k) for k in KINDS),
    ModalityConfig(bias_field=True, window=(100, 120), gamma=0.7, invert=True, clahe=True),
]


def prepare(image, mask=None, **options):
    return prepare_for_matching(image, mask, ModalityConfig(**options))


def unit_square(h, w):
    y, x = np.mgrid[:h, :w]
    return (2 * y + 1) / h - 1, (2 * x + 1) / w - 1


def fields(h, w):
    """Gains that are no polynomials, by a factor of 2.4 to 6.8 between their extremes."""
    y, x = unit_square(h, w)
    return {
        "coil in a corner": np.exp(0.8 * (0.7 * x + 0.5 * y - 0.4 * x * y)),
        "coil in the middle": 0.2 + 0.8 * np.exp(-1.3 * ((x - 0.2) ** 2 + (y + 0.1) ** 2)),
        "standing wave": np.exp(0.6 * np.sin(1.5 * x + 1) * np.cos(1.2 * y)),
    }


@pytest.fixture(scope="module")
def head():
    """float [400, 400]: Shepp and Logan's phantom with the contrasts of MR, and masks of two of its tissues."""
    p = shepp_logan_phantom()
    levels = np.select([p < 0.05, p < 0.15, p < 0.25, p < 0.35], [0, 40, 90, 130], 170).astype(float)
    inner = lambda level: cv2.erode((levels == level).astype(np.uint8), np.ones((5, 5))) > 0  # noqa: E731
    return levels, {level: inner(level) for level in (90, 130)}


def spread(x):
    return x.std() / x.mean()


@pytest.mark.parametrize("name", fields(4, 4))
@pytest.mark.parametrize("size", [(400, 400), (200, 320)])
def test_known_field_is_removed(head, name, size):
    """Gaussian noise of 2 grey levels is left; without noise the variation would fall further."""
    h, w = size
    levels = cv2.resize(head[0], (w, h), interpolation=cv2.INTER_NEAREST)
    regions = {
        k: cv2.resize(r.astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST) > 0 for k, r in head[1].items()
    }
    field = fields(h, w)[name]
    noise = np.random.default_rng(0).normal(0, 2, (h, w))
    seen = np.clip(np.round(levels * field / field.max() * 1.4 + noise), 0, 255).astype(np.uint8)
    fixed = prepare(seen, bias_field=True)
    before, after = spread(seen[regions[90]].astype(float)), spread(fixed[regions[90]].astype(float))
    assert before > 0.14 and after < before / 4
    body = levels > 0
    estimate = estimate_bias_field(seen)
    assert np.corrcoef(np.log(estimate[body]), np.log(field[body]))[0, 1] > 0.99
    assert abs(np.log(estimate[body]).mean()) < 0.02 and estimate.dtype == np.float32 and estimate.min() > 0
    # Contrast of two tissues: 130 to 90.
    assert np.isclose(fixed[regions[130]].mean() / fixed[regions[90]].mean(), 130 / 90, rtol=0.04)


def test_picture_without_a_field_is_left_alone(head):
    estimate = estimate_bias_field(head[0].astype(np.uint8))
    assert 0.97 < estimate.min() and estimate.max() < 1.03


def test_least_absolute_deviations_are_those_of_linear_programming():
    rng = np.random.default_rng(2)
    a, truth = rng.normal(size=(120, 4)), np.array([1.0, -2.0, 0.5, 0.0])
    b = a @ truth + 0.01 * rng.normal(size=120)
    b[::4] += rng.uniform(1, 5, 30)  # edges
    n, m = a.shape
    # minimise sum t, -t <= b - a x <= t
    solution = linprog(
        np.r_[np.zeros(m), np.ones(n)],
        A_ub=np.block([[a, -np.eye(n)], [-a, -np.eye(n)]]),
        b_ub=np.r_[b, -b],
        bounds=[(None, None)] * m + [(0, None)] * n,
    )
    found = _least_absolute(a, b)
    assert np.abs(b - a @ found).sum() <= 1.001 * solution.fun
    assert np.abs(found - solution.x[:m]).max() < 0.01
    assert np.abs(np.linalg.lstsq(a, b, rcond=None)[0] - truth).max() > 0.1  # the edges would mislead a plain fit


@pytest.mark.parametrize("clip, tiles", [(1.0, 8), (2.0, 8), (4.0, 3)])
def test_clahe_is_that_of_opencv(clip, tiles):
    rgb = phantoms.texture_image(120, 150, seed=3)
    clahe = cv2.createCLAHE(clip, (tiles, tiles))
    options = {"clahe": True, "clahe_clip": clip, "clahe_tiles": tiles}
    grey = rgb[..., 1].copy()
    assert np.array_equal(prepare(grey, **options), clahe.apply(grey))
    three = np.repeat(grey[..., None], 3, 2)
    assert np.array_equal(prepare(three, **options), np.repeat(clahe.apply(grey)[..., None], 3, 2))
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    lab[..., 0] = clahe.apply(lab[..., 0].copy())
    assert np.array_equal(prepare(rgb, **options), cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))


def test_inversion_window_and_gamma_in_closed_form():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgb = np.stack([ramp, ramp.T, ramp[::-1]], 2)
    for image in (ramp, rgb):
        assert np.array_equal(prepare(image, invert=True), 255 - image)
        assert np.array_equal(prepare(prepare(image, invert=True), invert=True), image)
    want = [round(255 * min(1, max(0, (v - 60) / 80))) for v in range(256)]
    assert prepare(ramp, window=(100, 80)).ravel().tolist() == want
    want = [round(255 * (v / 255) ** 0.5) for v in range(256)]
    assert prepare(ramp, gamma=0.5).ravel().tolist() == want
    flat = np.random.default_rng(0).integers(100, 120, (64, 64)).astype(np.uint8)
    shown = prepare(flat, window="auto")
    low, high = np.percentile(flat, (0.5, 99.5))
    assert np.array_equal(shown, np.round(255 * np.clip((flat - low) / (high - low), 0, 1)).astype(np.uint8))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda c: c.kind)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_the_mask_hides_is_untouched_and_has_no_influence(options, channels):
    rng = np.random.default_rng(0)
    image = phantoms.texture_image(100, 130, seed=1)
    mask = np.hypot(*unit_square(100, 130)) < 0.8
    other = np.where(mask[..., None], image, rng.integers(0, 256, image.shape).astype(np.uint8))
    if channels == 1:
        image, other = image[..., 0].copy(), other[..., 0].copy()
    kept = image.copy()
    a, b = prepare_for_matching(image, mask, options), prepare_for_matching(other, mask, options)
    assert a.dtype == np.uint8 and a.shape == image.shape and np.array_equal(image, kept)
    assert np.array_equal(a[mask], b[mask])
    assert np.array_equal(a[~mask], image[~mask]) and np.array_equal(b[~mask], other[~mask])
    assert np.array_equal(
        prepare_for_matching(image, np.ones_like(mask), options), prepare_for_matching(image, None, options)
    )
    assert np.array_equal(prepare_for_matching(image, np.zeros_like(mask), options), image)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda c: c.kind)
@pytest.mark.parametrize("size", [(0, 5), (1, 1), (1, 200), (7, 5), (31, 33), (64, 48)])
def test_constant_and_tiny_pictures(options, size):
    for level in (0, 1, 128, 255):
        flat = np.full(size, level, np.uint8)
        for image in (flat, np.repeat(flat[..., None], 3, 2)):
            out = prepare_for_matching(image, None, options)
            assert out.shape == image.shape and out.dtype == np.uint8
            assert not out.size or out.min() == out.max()  # no texture out of nothing
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    assert prepare_for_matching(image, None, options).shape == image.shape


def repeatability(a, b, within_px=1.5):
    """Share of keypoints that the other picture of the same geometry has at the same place; the smaller of both ways."""
    near = np.linalg.norm(a.xy[:, None] - b.xy[None], axis=2) <= within_px
    return min(near.any(1).mean(), near.any(0).mean()) if near.size else 0.0


@pytest.mark.parametrize("name", fields(4, 4))
def test_keypoints_come_back_under_another_field(head, name):
    """The same anatomy, the coil on the other side: more of SIFT's keypoints are in both pictures, window or not."""
    anatomy = head[0] * (0.85 + 0.3 * phantoms.texture_image(400, 400, seed=5, cell_px=9).mean(2) / 255)
    field = fields(400, 400)[name] / fields(400, 400)[name].max()
    sift = SiftExtractor(SiftExtractorConfig(contrast_threshold=0.03))

    def repeated(**options):
        shares = []
        for seed in range(3):
            noise = np.random.default_rng(seed).normal(0, 1, (2, 400, 400))
            pair = np.clip(np.round(anatomy * [field, field[::-1, ::-1]] + noise), 0, 255).astype(np.uint8)
            shares.append(repeatability(*(sift.extract(prepare(image, **options)) for image in pair)))
        return np.mean(shares)

    assert repeated(bias_field=True) > repeated() + 0.1
    assert repeated(bias_field=True, window="auto") > repeated(window="auto") + 0.1


def frame_set(folder, images, **more):
    frames = []
    for i, image in enumerate(images):
        write_png(folder / f"{i}.png", image)
        frames.append(Frame(i, f"{i:06d}", folder / f"{i}.png", image.shape[1], image.shape[0]))
    return FrameSet(tuple(frames), more.pop("source", "pictures"), **more)


def test_auto_knows_dicom_and_mucosa(tmp_path):
    grey = frame_set(tmp_path / "g", [phantoms.texture_image(40, 50, seed=i)[..., :1].repeat(3, 2) for i in range(3)])
    red = frame_set(
        tmp_path / "r", [(phantoms.texture_image(40, 50) * [1, 0.5, 0.4]).astype(np.uint8) for i in range(3)]
    )
    assert guess_kind(grey)[0] == "none" and guess_kind(red)[0] == "endoscopy"
    assert guess_kind(replace(red, truth_path=tmp_path / "truth.json"))[0] == "none"
    for words, kind in {
        "DICOM MR, 9 frames": "mr",
        "DICOM CT, 1": "ct",
        "DICOM DX, 2": "xray",
        "DICOM US, 3": "none",
    }.items():
        assert guess_kind(replace(red, source=words))[0] == kind
    black = frame_set(tmp_path / "b", [np.zeros((40, 50, 3), np.uint8)] * 3)
    assert guess_kind(black)[0] == "none"
    said = Quiet()
    assert preprocessing(ModalityConfig(kind="auto"), grey, said) is None and "none" in said.said[0]
    does = preprocessing(ModalityConfig(kind="auto"), replace(grey, source="DICOM MR, 3 frames"), said)
    image = grey.frames[0].load_image()
    assert np.array_equal(does(image, None), prepare(image, kind="mr"))
    assert "mr" in said.said[1] and "bias field" in said.said[2]
    with pytest.raises(ConfigError, match="auto"):
        prepare(image, kind="auto")


def test_features_see_the_prepared_copy_and_nothing_changes_by_default(tmp_path):
    frames = frame_set(tmp_path / "in", [phantoms.texture_image(120, 140, seed=i) // 4 for i in range(3)])
    sift = SiftExtractor(SiftExtractorConfig())
    config = ModalityConfig(window="auto", clahe=True)
    before = [(tmp_path / "in" / f"{i}.png").read_bytes() for i in range(3)]
    extract_all(frames, sift, tmp_path / "plain", Quiet())
    extract_all(frames, sift, tmp_path / "none", Quiet(), preprocessing(ModalityConfig(), frames, Quiet()))
    extract_all(frames, sift, tmp_path / "auto", Quiet(), preprocessing(config, frames, Quiet()))
    for i, f in enumerate(frames.frames):
        name = f"{i:06d}.npz"
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "none" / name).read_bytes()
        image = f.load_image()
        want = sift.extract(prepare_for_matching(image, None, config))
        got = Features.load(tmp_path / "auto" / name)
        assert np.array_equal(got.xy, want.xy) and np.array_equal(got.descriptors, want.descriptors)
        assert len(got) > len(sift.extract(image))
    assert [(tmp_path / "in" / f"{i}.png").read_bytes() for i in range(3)] == before


def test_section_of_the_configuration(tmp_path):
    (tmp_path / "in").mkdir()
    base = {"source": {"name": "image-folder", "path": str(tmp_path / "in")}}
    plain = load_config(base)
    assert plain.sections["modality"].options == ModalityConfig()
    mr = load_config({**base, "modality": {"kind": "mr", "window": [100, 50]}})
    assert mr.sections["modality"].options.window == (100, 50)
    assert load_config(mr.to_dict()).sections == mr.sections
    a, b = stage_keys(plain, "cpu", 1), stage_keys(mr, "cpu", 1)
    assert a["masks"] == b["masks"] and a["features"] != b["features"] and a["sfm"] != b["sfm"]
    for wrong in ({"kind": "pet"}, {"window": [100, 0]}, {"gamma": 0}, {"clahe_tiles": 0}, {"contrast": 1}):
        with pytest.raises(ConfigError, match="modality"):
            load_config({**base, "modality": wrong})
    assert "modality" in json_schema()["properties"]

# SPDX-License-Identifier: Apache-2.0
"""What users meet: bad input, wrong weights, budgets, real pictures under a known warp, quick looking."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import crafted
import numpy as np
import pytest
import torch
from medrecon_lightglue.aliked import AlikedExtractor
from medrecon_lightglue.disk import DiskExtractor
from medrecon_lightglue.extracting import peak_offsets
from medrecon_lightglue.lightglue import LightGlueMatcher
from medrecon_lightglue.options import AlikedExtractorConfig, DiskExtractorConfig, LightGlueMatcherConfig
from test_lightglue_kits import matcher

from medrecon.errors import AssetError, ConfigError, InputError
from medrecon.images import cv2
from medrecon.testing import fetched, phantoms

MAKERS = {
    "disk": lambda weights, **more: DiskExtractor(DiskExtractorConfig(weights=weights, **more)),
    "aliked": lambda weights, **more: AlikedExtractor(AlikedExtractorConfig(weights=weights, **more)),
    "lightglue": lambda weights, **more: LightGlueMatcher(LightGlueMatcherConfig(weights=weights, **more)),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_foreign_truncated_and_missing_checkpoints(kind, tmp_path):
    whole = getattr(crafted, kind)(tmp_path / "whole")
    foreign = crafted.lightglue(tmp_path / "f") if kind != "lightglue" else crafted.aliked(tmp_path / "f")
    short = tmp_path / "short.pth"
    short.write_bytes(whole.read_bytes()[:-2000])
    for path in (foreign, short, tmp_path / "absent.pth"):
        with pytest.raises(AssetError, match=path.name):
            MAKERS[kind](path)
    MAKERS[kind](whole)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("kind", MAKERS)
def test_a_gpu_that_is_not_there(kind, tmp_path):
    with pytest.raises(ConfigError, match="no GPU"):
        MAKERS[kind](getattr(crafted, kind)(tmp_path), device="cuda")


@pytest.mark.parametrize("kind", ["disk", "aliked"])
def test_budget_takes_the_strongest(kind, tmp_path):
    weights, image = getattr(crafted, kind)(tmp_path), phantoms.texture_image(96, 128)
    few, many = (MAKERS[kind](weights, max_keypoints=n).extract(image) for n in (9, 1000))
    assert len(few) == 9 < len(many)
    assert np.array_equal(few.xy, many.xy[:9]) and (np.diff(many.scores) <= 0).all()
    assert np.allclose(few.descriptors, many.descriptors[:9], atol=1e-5)


@pytest.mark.parametrize("kind", ["disk", "aliked"])
def test_large_pictures_are_shrunk_and_keypoints_put_back(kind, tmp_path):
    weights, image = getattr(crafted, kind)(tmp_path), phantoms.texture_image(96, 128)
    large = image.repeat(2, 0).repeat(2, 1)
    small = MAKERS[kind](weights).extract(image)
    found = MAKERS[kind](weights, max_size_px=128).extract(large)
    assert found.image_size == (256, 192)
    assert np.allclose(found.xy, 2 * small.xy, atol=1e-3)


def test_peaks_between_pixels_of_a_gaussian_are_exact():
    # The logarithm of a Gaussian is a parabola: three samples give its vertex exactly.
    rng = np.random.default_rng(1)
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(15.0), indexing="ij")
    for true in torch.from_numpy(rng.uniform(-0.45, 0.45, (30, 2))):
        logits = 5 - ((x - 7 - true[0]) ** 2 / 3 + (y - 4 - true[1]) ** 2 / 2)
        assert torch.allclose(peak_offsets(logits, torch.tensor([[7, 4]]))[0].double(), true, atol=1e-4)
    flat = peak_offsets(torch.zeros(5, 5), torch.tensor([[2, 2]]))
    assert torch.equal(flat, torch.zeros(1, 2))


def test_subpixel_moves_keypoints_within_their_pixel_and_nothing_else(tmp_path):
    weights, image = crafted.disk(tmp_path), phantoms.texture_image(96, 128)
    fine, plain = (MAKERS["disk"](weights, subpixel=on).extract(image) for on in (True, False))
    assert np.array_equal(plain.xy % 1, np.full_like(plain.xy, 0.5))
    assert 0 < np.abs(fine.xy - plain.xy).max() < 0.5
    assert np.array_equal(fine.scores, plain.scores) and np.array_equal(fine.descriptors, plain.descriptors)


@pytest.mark.parametrize("size", [190, 250, 310])
def test_subpixel_never_steps_into_the_mask_of_a_shrunk_picture(size, tmp_path):
    weights, image = crafted.disk(tmp_path), phantoms.texture_image(288, 384)
    mask = np.random.default_rng(size).random(image.shape[:2]) < 0.5
    fine, plain = (MAKERS["disk"](weights, subpixel=on, max_size_px=size).extract(image, mask) for on in (True, False))
    column, row = np.floor(fine.xy).astype(int).T
    assert len(fine) == len(plain) > 10 and mask[row, column].all()
    assert (fine.xy != plain.xy).any()


def test_thirty_thousand_keypoints_are_cut_to_the_strongest():
    rng = np.random.default_rng(0)
    pair = phantoms.feature_pair(n=300, n_extra=29_700, dimension=128, extractor="disk")
    known = {side: pair.true_idx[:, i] for i, side in enumerate("ab")}
    a, b = (
        replace(
            f, scores=np.where(np.isin(np.arange(len(f)), known[s]), 1, 0.5 * rng.random(len(f))).astype(np.float32)
        )
        for f, s in ((pair.a, "a"), (pair.b, "b"))
    )
    found = LightGlueMatcher(matcher_options(max_keypoints=400)).match(a, b).validate(len(a), len(b))
    true = {tuple(m) for m in pair.true_idx.tolist()}
    assert len({tuple(m) for m in found.idx.tolist()} & true) > 0.9 * len(true)


def matcher_options(**more):
    from test_lightglue_kits import made

    return LightGlueMatcherConfig(weights=made("lightglue"), **more)


def test_descriptors_of_another_length_are_refused():
    a = phantoms.feature_pair(dimension=64).a
    with pytest.raises(InputError, match="length 128"):
        LightGlueMatcher(matcher_options()).match(a, a)


def test_published_weights_know_their_extractor():
    assert LightGlueMatcherConfig().accepts() == ("disk",)
    assert LightGlueMatcherConfig(weights="lightglue-aliked").accepts() == ("aliked",)
    assert matcher_options().accepts() is None
    a = phantoms.feature_pair(dimension=128, extractor="aliked").a
    with pytest.raises(InputError, match="are for disk"):
        matcher(fetched("lightglue-disk")).match(a, a)


def python(*args, **environment):
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, *args], env=env, capture_output=True, text=True, timeout=60)


def test_looking_imports_no_torch():
    code = (
        "import sys, medrecon_lightglue as p; [c.load_config()().assets() for c in p.medrecon_components()];"
        "p.medrecon_assets(); assert 'torch' not in sys.modules"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_weights_for_another_extractor_are_refused_before_a_run(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        f"version: 1\nsource: {{name: image-folder, path: {tmp_path}}}\n"
        "features: {name: aliked}\nmatching: {name: lightglue}\n"
    )
    installed = any(e.name == "lightglue" for e in metadata.entry_points(group="medrecon"))
    loading = {"MEDRECON_PLUGINS": "" if installed else "medrecon_lightglue"}
    refused = python("-m", "medrecon", "config", "show", str(file), **loading)
    assert refused.returncode == 2 and "choose the weights for 'aliked'" in refused.stderr
    right = python("-m", "medrecon", "config", "show", str(file), "-o", "matching.weights=lightglue-aliked", **loading)
    assert right.returncode == 0, right.stderr


@pytest.mark.parametrize("extractor, weights, glue", [("disk", "disk-depth", "lightglue-disk"),
                                                      ("aliked", "aliked-n16", "lightglue-aliked")])  # fmt: skip
def test_a_real_picture_under_a_known_warp(extractor, weights, glue):
    picture = pytest.importorskip("skimage.data").astronaut()[:320, :320]
    h = np.array([[0.94, -0.19, 40], [0.16, 0.88, 12], [1e-4, 2e-4, 1]])
    warped = cv2.warpPerspective(picture, h, (320, 320), flags=cv2.INTER_LINEAR)
    made = MAKERS[extractor](fetched(weights), max_keypoints=400)
    a, b = made.extract(picture), made.extract(warped)
    found = matcher(fetched(glue)).match(a, b)
    # OpenCV's pixel centres are whole numbers, ours lie half a pixel further.
    to = np.c_[a.xy[found.idx[:, 0]] - 0.5, np.ones(len(found))] @ h.T
    error = np.linalg.norm(to[:, :2] / to[:, 2:] + 0.5 - b.xy[found.idx[:, 1]], axis=1)
    assert len(found) > 80
    assert (error < 3).mean() > 0.9

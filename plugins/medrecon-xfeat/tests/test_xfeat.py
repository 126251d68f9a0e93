# SPDX-License-Identifier: Apache-2.0
"""XFeat and LighterGlue: the contracts, and the network against kornia's."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from medrecon_lightglue.lightglue_network import LightGlueNetwork
from medrecon_xfeat.lighterglue import LighterGlueMatcher
from medrecon_xfeat.network import XFeatNetwork
from medrecon_xfeat.options import LighterGlueMatcherConfig, XFeatExtractorConfig
from medrecon_xfeat.xfeat import XFeatExtractor

from medrecon.errors import AssetError, InputError
from medrecon.images import cv2
from medrecon.testing import ExtractorConformance, MatcherConformance, fetched, phantoms


@functools.cache
def crafted_xfeat() -> Path:
    """Random weights with scores that differ."""
    torch.manual_seed(0)
    state = XFeatNetwork().state_dict()
    state["keypoint_head.3.weight"] *= 40
    path = Path(tempfile.mkdtemp()) / "xfeat.pt"
    torch.save(state, path)
    return path


@functools.cache
def crafted_lighterglue() -> Path:
    """Layers that pass their input on: matches are those of the descriptors, by double softmax."""
    state = {k: torch.zeros_like(v) for k, v in LightGlueNetwork(64, 96, 2, 1).state_dict().items()}
    state["input_proj.weight"] = torch.eye(96, 64)
    for i in range(2):
        state[f"log_assignment.{i}.final_proj.weight"] = 20 * torch.eye(96)
        state[f"log_assignment.{i}.matchability.bias"] += 9
    path = Path(tempfile.mkdtemp()) / "lighterglue.pt"
    torch.save({f"matcher.{k}": v for k, v in state.items()}, path)
    return path


class TestXFeat(ExtractorConformance):
    mirrored_alike = False  # its cells have a left and a right; test_pixel_centres is the test instead

    def picture(self):
        return phantoms.texture_image(128, 160, seed=1, cell_px=16.0)

    def make(self):
        return XFeatExtractor(XFeatExtractorConfig(weights=crafted_xfeat(), threshold=0.02))


class TestXFeatPublished(TestXFeat):
    min_keypoints = 30

    def make(self):
        return XFeatExtractor(XFeatExtractorConfig(weights=fetched("xfeat")))


class TestLighterGlue(MatcherConformance):
    extractor, dimension = "xfeat", 64
    min_recall = 0.8
    min_precision = 0.9

    def make(self):
        return LighterGlueMatcher(LighterGlueMatcherConfig(weights=crafted_lighterglue()))


class TestLighterGluePublished(TestLighterGlue):
    """Random descriptors mean nothing to it: features of a picture and of the same picture moved by whole cells."""

    def make(self):
        return LighterGlueMatcher(LighterGlueMatcherConfig(weights=fetched("lighterglue-xfeat")))

    def pair(self):
        fetched("lighterglue-xfeat")
        return moved_pair()


@functools.cache
def moved_pair() -> phantoms.FeaturePair:
    made_of = XFeatExtractor(XFeatExtractorConfig(weights=fetched("xfeat"), max_keypoints=300))
    picture, by = phantoms.texture_image(240, 320, seed=4), np.array([24, 8])
    a, b = made_of.extract(picture[:224, :288]), made_of.extract(picture[8:232, 24:312])
    distance = np.linalg.norm(a.xy[:, None] - by - b.xy[None], axis=2)
    mutual = (distance == distance.min(1, keepdims=True)) & (distance == distance.min(0)) & (distance < 3)
    return phantoms.FeaturePair(a, b, np.argwhere(mutual).astype(np.int32))


@torch.inference_mode()
def test_network_is_kornias():
    kornia = pytest.importorskip("kornia.feature", reason="kornia is not installed (a development dependency)")
    if not hasattr(kornia, "XFeat"):
        pytest.skip("this kornia has no XFeat")
    torch.manual_seed(1)
    ours = XFeatNetwork().eval()
    for name, b in ours.named_buffers():
        if "running" in name:
            b.copy_(torch.rand_like(b) * 0.2 + 0.1)
    theirs = kornia.XFeat(top_k=200, detection_threshold=0.0).eval()
    theirs.net.load_state_dict(ours.state_dict())
    path = Path(tempfile.mkdtemp()) / "random.pt"
    torch.save(ours.state_dict(), path)
    image = phantoms.texture_image(96, 128, seed=3)
    expected = theirs.detectAndCompute(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0]
    options = XFeatExtractorConfig(weights=path, threshold=0.0, border_px=0, max_keypoints=200, device="cpu")
    found = XFeatExtractor(options).extract(image)
    place = lambda xy: np.lexsort(np.asarray(xy).T)
    i, j = place(found.xy), place(expected["keypoints"].numpy())
    assert len(i) > 50
    assert np.array_equal(found.xy[i], expected["keypoints"].numpy()[j] + 0.5)
    assert np.allclose(found.scores[i], expected["scores"].numpy()[j], atol=1e-6)
    assert np.allclose(found.descriptors[i], expected["descriptors"].numpy()[j], atol=1e-4)


def test_pixel_centres():
    """A single bright pixel on black is the keypoint, and lies half a pixel beyond its index."""
    network = XFeatNetwork()
    state = {k: torch.zeros_like(v) for k, v in network.state_dict().items()}
    state |= {k: torch.ones_like(v) for k, v in state.items() if "running_var" in k}
    for i in range(3):
        state[f"keypoint_head.{i}.layer.0.weight"] = torch.eye(64)[..., None, None]
    state["keypoint_head.3.weight"] = torch.eye(65, 64)[..., None, None]
    path = Path(tempfile.mkdtemp()) / "bright.pt"
    torch.save(state, path)
    image = np.zeros((50, 70), np.uint8)
    image[[13, 30], [22, 51]] = 255
    found = XFeatExtractor(XFeatExtractorConfig(weights=path, threshold=0.1)).extract(image)
    assert found.xy.tolist() == [[22.5, 13.5], [51.5, 30.5]]


def test_features_of_another_extractor_are_refused():
    a = phantoms.feature_pair(dimension=128, extractor="sift").a
    with pytest.raises(InputError, match="length 64"):
        LighterGlueMatcher(LighterGlueMatcherConfig(weights=crafted_lighterglue())).match(a, a)


def test_a_real_picture_under_a_known_warp():
    picture = pytest.importorskip("skimage.data").astronaut()[:330, :350]
    h = np.array([[0.94, -0.19, 40], [0.16, 0.88, 12], [1e-4, 2e-4, 1]])
    warped = cv2.warpPerspective(picture, h, (350, 330), flags=cv2.INTER_LINEAR)
    made = XFeatExtractor(XFeatExtractorConfig(weights=fetched("xfeat"), max_keypoints=500))
    a, b = made.extract(picture), made.extract(warped)
    glue = LighterGlueMatcher(LighterGlueMatcherConfig(weights=fetched("lighterglue-xfeat")))
    found = glue.match(a, b)
    # OpenCV's pixel centres are whole numbers, ours lie half a pixel further.
    to = np.c_[a.xy[found.idx[:, 0]] - 0.5, np.ones(len(found))] @ h.T
    error = np.linalg.norm(to[:, :2] / to[:, 2:] + 0.5 - b.xy[found.idx[:, 1]], axis=1)
    assert len(found) > 80
    assert (error < 3).mean() > 0.9


def test_foreign_and_truncated_checkpoints(tmp_path):
    short = tmp_path / "short.pt"
    short.write_bytes(crafted_xfeat().read_bytes()[:-2000])
    for path in (short, crafted_lighterglue()):
        with pytest.raises(AssetError, match=path.name):
            XFeatExtractor(XFeatExtractorConfig(weights=path))
    with pytest.raises(AssetError, match="xfeat.pt"):
        LighterGlueMatcher(LighterGlueMatcherConfig(weights=crafted_xfeat()))

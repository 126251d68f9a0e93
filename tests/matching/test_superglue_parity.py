# SPDX-License-Identifier: Apache-2.0
"""SuperGlue against the transformers library's: the same matches and scores from the same weights and features."""

from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon import assets
from medrecon.images import cv2
from medrecon.matching.superglue import SuperglueMatcher, SuperglueMatcherConfig
from medrecon.matching.superglue_network import (
    SuperglueNetwork,
    SuperglueNetworkConfig,
    normalise_keypoints,
)
from medrecon.networks.checkpoint import load_network, save_network
from medrecon.types import Features

VIDEO = Path(__file__).parents[3] / "shared" / "data" / "endo.mp4"
pytest.importorskip("transformers", reason="the peer is a development dependency")

from peers import superglue_transformers as peer  # noqa: E402

SMALL = SuperglueNetworkConfig(descriptor_size=32, width=32, layers=4, heads=4, encoder_widths=(8, 16))


pytestmark = pytest.mark.usefixtures("one_thread")


def features(seed: int, n: int, size: int = 32, order=None, noise: float = 0.3) -> Features:
    """``n`` keypoints of one scene; another order and noise make a second picture of it."""
    rng, scene = np.random.default_rng(seed + 100), np.random.default_rng(0)
    xy, d, scores = scene.uniform(5, 235, (n, 2)), scene.normal(size=(n, size)), scene.random(n)
    order = np.arange(n) if order is None else order
    d = d[order] + noise * rng.normal(size=(n, size))
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    xy = xy[order] + rng.normal(0, 1, (n, 2))
    return Features(
        xy.astype(np.float32), scores.astype(np.float32), d.astype(np.float32), "l2", (320, 240), "superpoint"
    )


def compare(model, matcher, a: Features, b: Features) -> tuple[int, int, np.ndarray]:
    """Matches found by both, matches found by one alone, differences of scores of the former."""
    stack = lambda name: torch.from_numpy(np.stack([getattr(a, name), getattr(b, name)]))  # noqa: E731
    partner, scores = peer.match(model, stack("xy") - 0.5, stack("descriptors"), stack("scores"), a.image_size)
    theirs = {(i, int(j)): float(scores[i]) for i, j in enumerate(partner) if j >= 0}
    found = matcher.match(a, b)
    ours = {tuple(pair): float(s) for pair, s in zip(found.idx.tolist(), found.scores)}
    both = theirs.keys() & ours.keys()
    return len(both), len(theirs.keys() ^ ours.keys()), np.array([abs(theirs[k] - ours[k]) for k in both])


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A small network with random weights, norms that do something, and scores that tell pairs apart."""
    network, g = SuperglueNetwork(SMALL), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=g) * (0.15 if value.dim() > 1 else 0.1))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.weight.uniform_(0.5, 1.5, generator=g)
                module.running_mean.normal_(0, 0.2, generator=g)
                module.running_var.uniform_(0.5, 2, generator=g)
        network.final_proj.weight.mul_(4).add_(6 * torch.eye(32)[:, :, None])
        network.bin_score.fill_(0.7)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_network(path, network, "CC0-1.0", {"made by": "a test"})
    return path


@pytest.fixture(scope="module")
def library(weights):
    return peer.transformers_superglue(load_network(weights, SuperglueNetwork), iterations=60, threshold=0.1)


def test_random_weights_give_the_librarys_matches(library, weights):
    matcher = SuperglueMatcher(
        SuperglueMatcherConfig(weights=weights, sinkhorn_iterations=60, match_threshold=0.1, device="cpu")
    )
    for seed, n in ((0, 90), (1, 7), (2, 200)):
        order = np.random.default_rng(seed).permutation(n)
        both, differ, error = compare(library, matcher, features(0, n), features(seed, n, order=order))
        assert both >= n // 4 and differ == 0 and error.max() < 1e-4, (n, both, differ, error.max())


def test_the_network_that_is_trained_gives_the_librarys_scores(library, weights):
    a, b = features(0, 80), features(3, 80, order=np.random.default_rng(3).permutation(80))
    rows = []
    for f in (a, b):
        xy = normalise_keypoints(torch.from_numpy(f.xy), f.image_size)
        rows += [t[None] for t in (xy, torch.from_numpy(f.scores), torch.from_numpy(f.descriptors))]
    with torch.no_grad():
        plan = load_network(weights, SuperglueNetwork)(*rows, iterations=60)[0, :-1, :-1]
    stack = lambda name: torch.from_numpy(np.stack([getattr(a, name), getattr(b, name)]))  # noqa: E731
    partner, scores = peer.match(library, stack("xy") - 0.5, stack("descriptors"), stack("scores"), a.image_size)
    matched = partner >= 0
    assert matched.sum() >= 20
    torch.testing.assert_close(plan.exp()[matched, partner[matched].long()], scores[matched], atol=1e-4, rtol=0)


def warped(image: np.ndarray, seed: int) -> np.ndarray:
    """The picture seen from elsewhere: a random homography, a little darker, with noise."""
    h, w = image.shape[:2]
    rng = np.random.default_rng(seed)
    corners = np.float32([[0, 0], [w, 0], [w, h], [0, h]])
    moved = (corners + rng.uniform(-0.12, 0.12, (4, 2)) * (w, h)).astype(np.float32)
    out = cv2.warpPerspective(image, cv2.getPerspectiveTransform(corners, moved), (w, h))
    return np.clip(0.9 * out + rng.normal(0, 3, out.shape), 0, 255).astype(np.uint8)


def real_pairs() -> dict:
    """Pictures as grey pairs of one size; those of the video are left out where it is not."""
    from skimage import data

    pairs = {}
    for name in ("camera", "brick", "retina"):
        image = getattr(data, name)()
        image = cv2.resize(image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (512, 384))
        pairs[name] = image, warped(image, len(name))
    if VIDEO.is_file():
        capture = cv2.VideoCapture(str(VIDEO))
        frames = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2GRAY) for _ in range(11)]
        capture.release()
        pairs["endoscopy"] = tuple(cv2.resize(f, (512, 384)) for f in (frames[0], frames[10]))
    return pairs


@pytest.mark.parametrize("asset", ["superglue-outdoor", "superglue-indoor"])
def test_released_weights_on_real_pictures(asset):
    path, points = assets.path(asset), assets.path("superpoint")
    if path is None or points is None:
        pytest.skip(f"{asset} or superpoint has not been fetched")
    import medrecon

    extractor = medrecon.create("extractor", "superpoint", max_keypoints=300, device="cpu", weights=str(points))
    matcher = SuperglueMatcher(SuperglueMatcherConfig(weights=path, device="cpu"))
    model = peer.transformers_superglue(load_network(path, SuperglueNetwork), threshold=0.2)
    total, differing, errors = 0, 0, []
    for name, (image_a, image_b) in real_pairs().items():
        a, b = extractor.extract(image_a), extractor.extract(image_b)
        n = min(len(a), len(b))
        a, b = (
            Features(f.xy[:n], f.scores[:n], f.descriptors[:n], "l2", f.image_size, f.extractor) for f in (a, b)
        )  # the library takes equally many on both sides
        both, differ, error = compare(model, matcher, a, b)
        assert both >= 0.2 * n, (name, n, both)
        total, differing, errors = total + both, differing + differ, [*errors, error]
    assert differing <= 0.01 * total
    # 18 layers magnify the rounding of float32: in float64 either side moves by as much as the two differ.
    errors = np.concatenate(errors)
    assert np.quantile(errors, 0.95) < 1e-4 and errors.max() < 1e-3, (np.quantile(errors, 0.95), errors.max())

# SPDX-License-Identifier: Apache-2.0
"""Keypoints of a batch against the extractor that finds them in one picture."""

import numpy as np
import pytest
import torch

from medrecon.features import classical_points
from medrecon.features.superpoint import SuperpointExtractor, SuperpointExtractorConfig
from medrecon.networks.checkpoint import save_network
from medrecon.testing.networks import small_superpoint
from medrecon.training.keypoints import DETECTORS, corner_scores, find_keypoints

HEIGHT, WIDTH = 96, 120


def pictures() -> np.ndarray:
    """uint8 [2, H, W]: blurred noise."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, HEIGHT // 4, WIDTH // 4)).astype(np.float32)
    fine = torch.nn.functional.interpolate(torch.from_numpy(noise)[None], (HEIGHT, WIDTH), mode="bilinear")[0]
    return fine.round().numpy().astype(np.uint8)


def half_mask() -> np.ndarray:
    mask = np.ones((2, HEIGHT, WIDTH), bool)
    mask[0, :, 70:] = False
    return mask


@pytest.fixture(scope="module")
def network():
    return small_superpoint()


def batch(network, count, images=None, masks=None, seed=0, detector="superpoint"):
    images = pictures() if images is None else images
    masks = half_mask() if masks is None else masks
    tensor = torch.from_numpy(images.astype(np.float32) / 255)[:, None]
    return find_keypoints(
        network, tensor, torch.from_numpy(masks), count, torch.Generator().manual_seed(seed), detector
    )


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_strongest_are_the_extractors(network, tmp_path, detector):
    count = 40
    save_network(tmp_path / "small.safetensors", network, "Apache-2.0", {})
    config = SuperpointExtractorConfig(
        weights=tmp_path / "small.safetensors", max_keypoints=count, threshold=0, detector=detector, device="cpu"
    )
    extractor = SuperpointExtractor(config)
    found = batch(network, count, detector=detector)
    # The product puts corners between the pixels, and reads descriptors there.
    between_pixels, turned = (0.0, 1e-5) if detector == "superpoint" else (0.49, 0.05)
    for i, (image, mask) in enumerate(zip(pictures(), half_mask())):
        expected = extractor.extract(image, mask)
        assert len(expected) == count
        np.testing.assert_allclose(found.xy[i], expected.xy, atol=between_pixels + 1e-5)
        np.testing.assert_allclose(found.scores[i], expected.scores, rtol=1e-4)
        np.testing.assert_allclose(found.descriptors[i], expected.descriptors, atol=turned)
    assert found.valid.all()


def test_corners_are_those_of_the_product():
    image = pictures()[0]
    found = corner_scores(torch.from_numpy(image.astype(np.float32) / 255)[None, None])[0]
    np.testing.assert_allclose(found, classical_points.corner_scores(image), atol=2e-4)


def test_random_pixels_fill_up(network):
    mask = np.zeros((2, HEIGHT, WIDTH), bool)
    mask[:, 20:44, 20:44] = True  # 576 pixels, of which few are maxima
    found = batch(network, 300, masks=mask)
    x, y = found.xy.unbind(2)
    assert found.valid.all() and bool(((x > 20) & (x < 44) & (y > 20) & (y < 44)).all())
    for xy in found.xy:
        assert len({tuple(p) for p in xy.tolist()}) == 300  # no pixel twice
    # The maxima come first: more places change only what follows them.
    fewer = batch(network, 5, masks=mask)
    torch.testing.assert_close(fewer.xy, found.xy[:, :5])
    torch.testing.assert_close(found.descriptors.norm(dim=2), torch.ones(2, 300))
    assert not torch.equal(batch(network, 300, masks=mask, seed=1).xy, found.xy)


def test_where_the_mask_is_too_small_the_rest_is_not_valid(network):
    mask = np.zeros((2, HEIGHT, WIDTH), bool)
    mask[0, 30:40, 30:40] = True
    found = batch(network, 150, masks=mask)
    assert found.valid.sum(1).tolist() == [100, 0]
    assert bool(found.valid[0, :100].all())


def test_pixels_that_fill_no_cell_are_left_out(network):
    image, mask = pictures()[:, :, :117], np.ones((2, HEIGHT, 117), bool)
    found = batch(network, 60, images=image, masks=mask)
    assert float(found.xy[..., 0].max()) < 112

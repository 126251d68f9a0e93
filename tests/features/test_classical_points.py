# SPDX-License-Identifier: Apache-2.0
"""Classical keypoints with learned descriptors: scores and places by definition, and the rules of SuperPoint's own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from medrecon.errors import StageError
from medrecon.features.classical_points import blob_scores, corner_scores, find_classical, peak_offsets
from medrecon.features.superpoint import SuperpointExtractor, SuperpointExtractorConfig
from medrecon.features.superpoint_network import SuperpointNetwork
from medrecon.images import cv2
from medrecon.networks.checkpoint import load_network, save_network
from medrecon.testing import phantoms
from medrecon.testing.networks import small_superpoint

CLASSICAL = ["shi-tomasi", "sift"]


@pytest.fixture(scope="module")
def image():
    return phantoms.texture_image(203, 318, seed=4, cell_px=14)[..., 1].copy()


@pytest.fixture
def make(small_weights):
    def make(detector, weights=small_weights, **options):
        config = SuperpointExtractorConfig(detector=detector, weights=weights, device="cpu", **options)
        return SuperpointExtractor(config)

    return make


def gaussian_blob(x, y, sigma, size=64, height=200.0):
    rows, columns = np.mgrid[:size, :size] + 0.5
    return np.round(height * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))).astype(np.uint8)


def test_corner_score_by_definition(image):
    """The lesser eigenvalue, by numpy, of the mean over 3 x 3 px of the products of Sobel's derivatives."""
    grey = image.astype(np.float64) / 255
    smooth, step = np.array([1, 2, 1]) / 4, np.array([1, 0, -1]) / 2
    along = lambda v, k, axis: np.apply_along_axis(np.convolve, axis, v, k, mode="same")  # noqa: E731
    dx, dy = along(along(grey, step, 1), smooth, 0), along(along(grey, step, 0), smooth, 1)
    mean = lambda v: along(along(v, np.ones(3) / 3, 0), np.ones(3) / 3, 1)  # noqa: E731
    tensor = np.stack([mean(dx * dx), mean(dx * dy), mean(dx * dy), mean(dy * dy)], -1).reshape(*grey.shape, 2, 2)
    expected = np.sqrt(np.maximum(np.linalg.eigvalsh(tensor)[..., 0], 0))
    inner = slice(3, -3), slice(3, -3)  # the image's edge is handled in another way
    np.testing.assert_allclose(corner_scores(image)[inner], expected[inner], atol=2e-4)
    assert expected.max() > 0.05


def test_corner_scores_stay_within_one():
    hard = np.random.default_rng(0).choice([0, 255], (40, 40)).astype(np.uint8)
    assert 0.2 < corner_scores(hard).max() <= 1 and corner_scores(hard).min() >= 0
    assert not corner_scores(np.tile(np.arange(60, dtype=np.uint8), (60, 1))).any()  # a slope is no corner


@pytest.mark.parametrize("place", [(30.5, 30.5), (31.2, 29.4), (28.9, 33.7)])
def test_sift_finds_the_middle_of_a_blob(place):
    found = find_classical("sift", gaussian_blob(*place, sigma=4.0), 8, 0.01)
    assert len(found.row) == 1
    xy = np.array([found.column[0], found.row[0]]) + 0.5 + found.offset[0]
    np.testing.assert_allclose(xy, place, atol=0.1)
    # A Gaussian of height h has a difference of Gaussians, k = 2^(1/3), of about h (k - 1) / 2 at its own scale.
    assert 0.5 < found.scores[0] / (200 / 255 * (2 ** (1 / 3) - 1) / 2) < 1.5


def test_shi_tomasi_finds_a_corner_between_pixels():
    """A square drawn with known fractions of the pixels covered: its corners are symmetric, so is what is found."""
    big = np.zeros((600, 600), np.uint8)
    big[203:401, 207:405] = 220  # corners at 20.3, 20.7 and 40.1, 40.5 of the pixels below
    grey = big.reshape(60, 10, 60, 10).mean((1, 3)).round().astype(np.uint8)
    found = find_classical("shi-tomasi", grey, 4, 0.05)
    xy = np.stack([found.column, found.row], 1) + 0.5 + found.offset
    assert len(xy) == 4
    middle = xy.mean(0)
    np.testing.assert_allclose(middle, [30.6, 30.2], atol=0.08)
    expected = np.array([[20.7, 20.3], [40.5, 20.3], [20.7, 40.1], [40.5, 40.1]])
    np.testing.assert_allclose(xy, expected, atol=1.0)  # the strongest window lies inside the corner


def test_peak_of_a_parabola_is_found():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:9, :9]
    for true in rng.uniform(-0.45, 0.45, (30, 2)):
        surface = 5 - 0.3 * (x - 4 - true[0]) ** 2 - 0.7 * (y - 4 - true[1]) ** 2
        np.testing.assert_allclose(peak_offsets(surface, np.array([4]), np.array([4]))[0], true, atol=1e-9)
    flat = np.ones((5, 5), np.float32)
    everywhere = np.indices((5, 5)).reshape(2, -1)
    assert not peak_offsets(flat, *everywhere).any()
    assert np.abs(peak_offsets(rng.random((5, 5)), *everywhere)).max() < 0.5


def test_blobs_are_those_of_the_library(image):
    """Every score is a keypoint of OpenCV's with that response and place, and the strongest of its pixel."""
    scores, offsets = blob_scores(image, 0.01)
    plain = cv2.SIFT_create(0, 3, 0.03, 10.0, 1.6, True).detect(image, None)
    by_pixel = {}
    for k in plain:
        at = int(np.rint(k.pt[1])), int(np.rint(k.pt[0]))
        by_pixel.setdefault(at, []).append(k)
    assert len(by_pixel) == (scores > 0).sum() > 50
    for at, keypoints in by_pixel.items():
        best = max(keypoints, key=lambda k: k.response)
        assert scores[at] == np.float32(best.response)
        np.testing.assert_allclose(offsets[at] + at[::-1], best.pt, atol=0.02)


@pytest.mark.parametrize("detector", CLASSICAL)
def test_descriptors_are_the_networks_at_that_place(make, small_weights, image, detector):
    """``grid_sample`` on the grid of the released models is the independent reading."""
    found = make(detector, max_keypoints=200).extract(image).validate()
    assert len(found) > 50 and found.extractor == "superpoint"
    network = load_network(small_weights, SuperpointNetwork)
    with torch.inference_mode():
        _, cells = network(torch.from_numpy(image)[None, None] / 255)
    n = np.array([cells.shape[3], cells.shape[2]])
    place = (found.xy - 0.5 - 3.5) / (8 * n - 1 - 3.5) * 2 - 1
    grid = torch.from_numpy(place.astype(np.float32))[None, None]
    read = F.grid_sample(cells, grid, align_corners=True, padding_mode="border")[0, :, 0].T
    np.testing.assert_allclose(found.descriptors, F.normalize(read, dim=1).numpy(), atol=1e-4)
    assert (found.xy != np.floor(found.xy) + 0.5).any()


@pytest.mark.parametrize("detector", CLASSICAL)
def test_scores_order_distance_and_border_as_with_the_own_detector(make, image, detector):
    found = make(detector, max_keypoints=None, nms_radius_px=5, border_px=9, threshold=0.004).extract(image)
    assert len(found) > 30
    assert (found.scores > 0.004).all() and (found.scores <= 1).all() and (np.diff(found.scores) <= 0).all()
    pixel = np.floor(found.xy)
    apart = np.abs(pixel[:, None] - pixel).max(2) + 99 * np.eye(len(pixel))
    assert apart.min() > 5
    assert found.xy.min() > 9 and found.xy[:, 0].max() < 39 * 8 - 9 and found.xy[:, 1].max() < 25 * 8 - 9
    few = make(detector, max_keypoints=10, nms_radius_px=5, border_px=9, threshold=0.004).extract(image)
    np.testing.assert_array_equal(few.xy, found.xy[:10])
    np.testing.assert_allclose(few.descriptors, found.descriptors[:10], atol=1e-6)


@pytest.mark.parametrize("detector", CLASSICAL)
def test_a_mask_only_removes(make, detector):
    image = phantoms.texture_image(303, 418, seed=5, cell_px=14)
    extractor = make(detector, max_keypoints=None)
    full = extractor.extract(image)
    column, row = full.xy.astype(int).T
    for top, bottom, left, right in ((0, 60, 0, 70), (130, 180, 150, 220), (250, 303, 350, 418)):
        mask = np.zeros(image.shape[:2], bool)
        mask[top:bottom, left:right] = True
        mask[top : top + 5, left : left + 9] = False
        inside = mask[row, column]
        found = extractor.extract(image, mask)
        assert inside.sum() > 3
        np.testing.assert_array_equal(found.xy, full.xy[inside])
        np.testing.assert_array_equal(found.scores, full.scores[inside])
        np.testing.assert_allclose(found.descriptors, full.descriptors[inside], atol=1e-5)


@pytest.mark.parametrize("detector", CLASSICAL)
@pytest.mark.parametrize("size", [150, 250])
def test_never_in_the_mask_of_a_shrunk_picture(make, image, detector, size):
    mask = np.random.default_rng(size).random(image.shape) < 0.5
    found = make(detector, max_size_px=size, threshold=0.0).extract(image, mask)
    row, column = np.floor(found.xy[:, 1]).astype(int), np.floor(found.xy[:, 0]).astype(int)
    assert len(found) > 10 and mask[row, column].all()


@pytest.mark.parametrize("detector", CLASSICAL)
def test_same_picture_same_features_at_any_thread_count(make, image, detector):
    before, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 2):
            torch.set_num_threads(n)
            cv2.setNumThreads(n)
            found.append(make(detector).extract(image))
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(-1)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].xy, other.xy)
        np.testing.assert_array_equal(found[0].scores, other.scores)
    np.testing.assert_array_equal(found[1].descriptors, found[2].descriptors)


@pytest.mark.parametrize("detector", CLASSICAL)
@pytest.mark.parametrize("size", [(1, 1), (7, 400), (8, 8), (15, 40), (16, 16)])
def test_tiny_and_plain_pictures(make, detector, size):
    assert make(detector, threshold=0.0).extract(phantoms.texture_image(*size)).validate().descriptors.shape[1] == 32
    assert len(make(detector).extract(np.full(size, 90, np.uint8)).validate()) == 0


def test_what_cannot_be(make, tmp_path, image):
    with pytest.raises(ValidationError, match="detector.*\n.*'superpoint', 'shi-tomasi' or 'sift'"):
        make("harris")
    network = small_superpoint()
    with torch.no_grad():
        network.conv4b.weight.mul_(1e38)
        network.conv4a.weight.mul_(1e30)
    save_network(tmp_path / "huge.safetensors", network, "", {})
    for detector in CLASSICAL:
        with pytest.raises(StageError, match="not finite"):
            make(detector, weights=tmp_path / "huge.safetensors").extract(image)

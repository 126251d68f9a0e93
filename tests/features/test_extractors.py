# SPDX-License-Identifier: Apache-2.0
"""sift, surf and orb against geometry that is known: flips, turns, homographies, masks."""

import cv2
import numpy as np
import pytest

from medrecon.errors import ConfigError, InputError
from medrecon.features.orb import OrbExtractor, OrbExtractorConfig
from medrecon.features.sift import SiftExtractor, SiftExtractorConfig
from medrecon.features.surf import SurfExtractor, SurfExtractorConfig, opencv_surf_available
from medrecon.matching.nearest_neighbour import NearestNeighbourMatcher, NearestNeighbourMatcherConfig
from medrecon.testing import ExtractorConformance, phantoms

KINDS = {
    "sift": (SiftExtractor, SiftExtractorConfig),
    "surf": (SurfExtractor, SurfExtractorConfig),
    "orb": (OrbExtractor, OrbExtractorConfig),
}


def make(name, **options):
    factory, config = KINDS[name]
    return factory(config(**options))


@pytest.fixture(scope="module")
def image():
    return phantoms.texture_image(300, 400, seed=5, cell_px=14)


class TestSiftConformance(ExtractorConformance):
    def make(self):
        return make("sift")


class TestSurfConformance(ExtractorConformance):
    def make(self):
        return make("surf")


class TestOrbConformance(ExtractorConformance):
    def make(self):
        return make("orb")


@pytest.mark.parametrize("name", KINDS)
def test_half_turn_maps_keypoints_onto_each_other(name, image):
    """The half-turned picture has its keypoints at (W - x, H - y) only if pixel centres lie at 0.5, on every scale."""
    h, w = image.shape[:2]
    a = make(name).extract(image)
    b = make(name).extract(np.ascontiguousarray(image[::-1, ::-1]))
    turned = np.array([w, h]) - b.xy
    distance = np.linalg.norm(a.xy[:, None] - turned[None], axis=2)
    near = distance.argmin(1)
    found = distance[np.arange(len(a)), near] < 2
    assert found.mean() > 0.7
    shift = (a.xy - turned[near])[found] / 2
    for scale in np.unique(a.scale[found].round()):
        of_scale = a.scale[found].round() == scale
        if of_scale.sum() >= 20:
            assert np.abs(np.median(shift[of_scale], axis=0)).max() < 0.1, scale


@pytest.mark.parametrize("name", KINDS)
def test_angles_turn_with_the_picture(name, image):
    """Turned clockwise by 90 degrees (x towards y), every angle grows by 90 degrees."""
    h = image.shape[0]
    a = make(name).extract(image)
    b = make(name).extract(np.ascontiguousarray(np.rot90(image, -1)))
    where = np.stack([h - a.xy[:, 1], a.xy[:, 0]], 1)
    distance = np.linalg.norm(where[:, None] - b.xy[None], axis=2)
    near = distance.argmin(1)
    found = distance[np.arange(len(a)), near] < 0.5
    turned = np.angle(np.exp(1j * (b.angle[near] - a.angle)))[found]
    assert found.sum() > 30
    assert np.median(np.abs(np.angle(np.exp(1j * (turned - np.pi / 2))))) < 0.1


@pytest.mark.parametrize("name", KINDS)
def test_homography_is_found_again(name, image):
    h, w = image.shape[:2]
    turn = cv2.getRotationMatrix2D((w / 2, h / 2), 12, 0.9)
    homography = np.vstack([turn, [1e-4, -5e-5, 1]])
    # cv2 puts (0, 0) at the centre of the first pixel.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    warped = cv2.warpPerspective(image, np.linalg.inv(half) @ homography @ half, (w, h), flags=cv2.INTER_CUBIC)
    a, b = make(name).extract(image), make(name).extract(warped)
    matches = NearestNeighbourMatcher(NearestNeighbourMatcherConfig()).match(a, b)
    true = cv2.perspectiveTransform(a.xy[None, matches.idx[:, 0]].astype(np.float64), homography)[0]
    error = np.linalg.norm(true - b.xy[matches.idx[:, 1]], axis=1)
    assert len(matches) > 60
    assert (error < 1.5).mean() > 0.8


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("max_size_px", [None, 200])
def test_mask_is_strict_also_when_shrunk(name, image, max_size_px):
    mask = np.zeros(image.shape[:2], bool)
    cv2.circle(canvas := np.zeros(mask.shape, np.uint8), (190, 140), 90, 1, -1)
    mask |= canvas.astype(bool)
    mask[100:110] = False
    features = make(name, max_size_px=max_size_px).extract(image, mask).validate()
    assert len(features) > 10
    column, row = features.xy.astype(int).T
    assert mask[row, column].all()


@pytest.mark.parametrize("name", KINDS)
def test_best_are_kept_in_order(name, image):
    few, many = make(name, max_keypoints=50).extract(image), make(name, max_keypoints=2000).extract(image)
    assert 0.8 * 50 <= len(few) <= 50 < len(many)
    assert (np.diff(few.scores) <= 0).all() and (np.diff(many.scores) <= 0).all()


@pytest.mark.parametrize("name", ["sift", "surf"])
def test_descriptors_have_unit_length(name, image):
    descriptors = make(name).extract(image).descriptors
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)


def test_shrinking_gives_coordinates_of_the_original():
    big = cv2.resize(phantoms.texture_image(200, 260, seed=2), None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    full, shrunk = make("sift").extract(big), make("sift", max_size_px=260).extract(big)
    distance = np.linalg.norm(shrunk.xy[:, None] - full.xy[None], axis=2).min(1)
    assert shrunk.image_size == (780, 600)
    assert np.median(distance) < 0.75


def test_rootsift_is_the_square_root_of_sift(image):
    plain, root = make("sift", rootsift=False).extract(image), make("sift").extract(image)
    expected = np.sqrt(plain.descriptors / plain.descriptors.sum(1, keepdims=True))
    np.testing.assert_allclose(root.descriptors, expected, atol=1e-4)
    assert (plain.xy == root.xy).all()


@pytest.mark.parametrize("name", KINDS)
def test_wrong_input_is_named(name, image):
    with pytest.raises(InputError, match="uint8"):
        make(name).extract(image.astype(np.float32))
    with pytest.raises(InputError, match="mask is 10x10"):
        make(name).extract(image, np.ones((10, 10), bool))


@pytest.mark.skipif(opencv_surf_available(), reason="this OpenCV has SURF")
def test_surf_says_when_opencv_lacks_it():
    assert make("surf").backend == "mahotas"
    with pytest.raises(ConfigError, match="without SURF"):
        make("surf", backend="opencv")


def test_surf_positions_are_exact_below_a_pixel():
    """Gaussian blobs at known places; mahotas alone is off by twice the sub-pixel part (0.5 px on average)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:300, :300] + 0.5
    for sigma in (3.0, 5.0):
        places = np.array([(gx, gy) for gy in range(60, 260, 60) for gx in range(60, 260, 60)])
        places = places + rng.uniform(-2, 2, places.shape)
        blobs = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in places)
        features = make("surf").extract(np.round(50 + 150 * blobs).astype(np.uint8))
        distance = np.linalg.norm(places[:, None] - features.xy[None], axis=2).min(1)
        assert distance.max() < 0.1

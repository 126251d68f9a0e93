# SPDX-License-Identifier: Apache-2.0
"""Conformance kit for extractors."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from medrecon.testing import phantoms
from medrecon.testing.contract import require, require_valid, same
from medrecon.types import Features

KIND = "extractor"


class ExtractorConformance:
    """Inherit in a class called ``Test...`` and override :meth:`make`.

    Attributes:
        min_keypoints: how many keypoints a textured 240x320 picture must give at least.
        mirrored_alike: whether a mirrored picture has mirrored keypoints. Set it to False for a network that was
            trained on one handedness only, and test the pixel centres with weights that are symmetric.
    """

    min_keypoints = 20
    mirrored_alike = True

    def make(self) -> Any:
        """Return the extractor under test, e.g. ``medrecon.create("extractor", "my-extractor")``."""
        raise NotImplementedError("override make() and return your extractor")

    def picture(self) -> np.ndarray:
        """uint8 [H, W, 3] picture on which the extractor works well."""
        return phantoms.texture_image(240, 320, seed=1)

    def _extract(self, image: np.ndarray, mask: np.ndarray | None = None) -> Features:
        features = self.make().extract(image, mask)
        require(
            isinstance(features, Features), KIND, "extract returns medrecon.types.Features", type(features).__name__
        )
        require_valid(features.validate, KIND, "extract returns valid Features")
        size = (image.shape[1], image.shape[0])
        require(
            features.image_size == size, KIND, "image_size is (width, height) of the picture", f"{features.image_size}"
        )
        return features

    def test_finds_keypoints_in_colour_and_grey(self) -> None:
        image = self.picture()
        for kind, picture in (("colour", image), ("grey", image[..., 1].copy())):
            n = len(self._extract(picture))
            contract = f"a textured {kind} picture gives at least {self.min_keypoints} keypoints"
            require(n >= self.min_keypoints, KIND, contract, f"{n}")

    def test_names_itself(self) -> None:
        features = self._extract(self.picture())
        require(bool(features.extractor), KIND, "features carry the extractor's name", repr(features.extractor))

    def test_survives_any_size(self) -> None:
        for height, width in ((1, 1), (3, 5), (17, 1), (33, 65), (64, 31)):
            self._extract(phantoms.texture_image(height, width))

    def test_survives_constant_pictures(self) -> None:
        for value in (0, 128, 255):
            self._extract(np.full((48, 64, 3), value, np.uint8))

    def test_is_deterministic(self) -> None:
        extractor, image = self.make(), self.picture()
        first, second = extractor.extract(image.copy(), None), extractor.extract(image.copy(), None)
        require(same(first, second), KIND, "the same picture twice gives the same features, bit for bit")
        require(same(first, self._extract(image)), KIND, "two instances with the same options give the same features")

    def test_leaves_its_input_alone(self) -> None:
        image = self.picture()
        mask = np.ones(image.shape[:2], bool)
        mask[:, :40] = False
        kept = image.copy(), mask.copy()
        self._extract(image, mask)
        require(same((image, mask), kept), KIND, "extract changes neither the picture nor the mask")

    def test_accepts_views_of_memory(self) -> None:
        image = self.picture()
        flipped = image[:, ::-1]
        contract = "a picture that is not contiguous in memory gives the same features as its copy"
        require(same(self._extract(flipped), self._extract(flipped.copy())), KIND, contract)

    def test_honours_the_mask_strictly(self) -> None:
        image = self.picture()
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        mask = (x + 0.3 * y) % 60 < 35
        xy = self._extract(image, mask).xy
        column = np.minimum(xy[:, 0].astype(int), image.shape[1] - 1)
        row = np.minimum(xy[:, 1].astype(int), image.shape[0] - 1)
        outside = int((~mask[row, column]).sum())
        require(outside == 0, KIND, "no keypoint lies where the mask is False", f"{outside} of {len(xy)} do")

    def test_full_and_empty_masks(self) -> None:
        image = self.picture()
        shape = image.shape[:2]
        n = len(self._extract(image, np.zeros(shape, bool)))
        require(n == 0, KIND, "a mask that is False everywhere gives no keypoints", f"{n}")
        full = self._extract(image, np.ones(shape, bool))
        require(same(full, self._extract(image)), KIND, "a mask that is True everywhere is the same as no mask")

    def test_pixel_centres_lie_at_one_half(self) -> None:
        """The mirrored picture has its keypoints at W - x if, and only if, the first pixel's centre is 0.5."""
        if not self.mirrored_alike:
            import pytest

            pytest.skip("mirrored_alike is False: the network's keypoints have a handedness")
        image = self.picture()
        xy, mirrored = self._extract(image).xy, self._extract(image[:, ::-1].copy()).xy.copy()
        mirrored[:, 0] = image.shape[1] - mirrored[:, 0]
        distance, nearest = cKDTree(xy).query(mirrored, distance_upper_bound=3.0)
        near = np.isfinite(distance)
        contract = (
            "the centre of the first pixel is at (0.5, 0.5), so that a mirrored picture has its keypoints at W - x"
        )
        require(near.any(), KIND, contract, "no keypoint of the mirrored picture lies near one of the original")
        shift = float(np.median(xy[nearest[near], 0] - mirrored[near, 0]))
        require(abs(shift) < 0.5, KIND, contract, f"they are {shift:+.2f} px off (-1 px: the centre was taken as 0)")

# SPDX-License-Identifier: Apache-2.0
"""The contracts of every extractor and matcher: with weights made by code, and with the published where fetched."""

import functools
import tempfile
from pathlib import Path

import crafted
import numpy as np
from medrecon_lightglue.aliked import AlikedExtractor
from medrecon_lightglue.disk import DiskExtractor
from medrecon_lightglue.lightglue import LightGlueMatcher
from medrecon_lightglue.options import AlikedExtractorConfig, DiskExtractorConfig, LightGlueMatcherConfig

from medrecon.testing import ExtractorConformance, MatcherConformance, fetched, phantoms


@functools.cache
def made(kind: str) -> Path:
    return getattr(crafted, kind)(Path(tempfile.mkdtemp()))


class _Extractor(ExtractorConformance):
    def picture(self):
        return phantoms.texture_image(128, 160, seed=1, cell_px=16.0)


class TestDisk(_Extractor):
    def make(self):
        return DiskExtractor(DiskExtractorConfig(weights=made("disk")))


class TestDiskPublished(_Extractor):
    min_keypoints = 50
    mirrored_alike = False  # prefers one side of what it sees: trained without mirrored pictures

    def make(self):
        return DiskExtractor(DiskExtractorConfig(weights=fetched("disk-depth")))


class TestAliked(_Extractor):
    def make(self):
        return AlikedExtractor(AlikedExtractorConfig(weights=made("aliked")))


class TestAlikedPublished(_Extractor):
    min_keypoints = 20
    mirrored_alike = False

    def make(self):
        return AlikedExtractor(AlikedExtractorConfig(weights=fetched("aliked-n16")))


@functools.cache
def matcher(weights) -> LightGlueMatcher:
    """Read and hashed once, not in every check."""
    return LightGlueMatcher(LightGlueMatcherConfig(weights=weights))


class TestLightGlue(MatcherConformance):
    extractor = "disk"
    min_recall = 0.9
    min_precision = 0.95

    def make(self):
        return matcher(made("lightglue"))


class _Published(MatcherConformance):
    """Random descriptors mean nothing to learned matchers: features of a picture and of the same picture moved."""

    min_recall = 0.9
    min_precision = 0.95
    weights: str

    def make(self):
        return matcher(fetched(self.weights))

    def pair(self):
        fetched(self.weights)
        return moved_pair(self.extractor)


class TestLightGlueDiskPublished(_Published):
    extractor, weights = "disk", "lightglue-disk"


class TestLightGlueAlikedPublished(_Published):
    extractor, weights = "aliked", "lightglue-aliked"


@functools.cache
def moved_pair(extractor: str) -> phantoms.FeaturePair:
    """A picture and its cut-out 24 px to the right and 9 px further down; truth by position alone."""
    if extractor == "disk":
        made_of = DiskExtractor(DiskExtractorConfig(weights=fetched("disk-depth"), max_keypoints=300))
    else:
        made_of = AlikedExtractor(AlikedExtractorConfig(weights=fetched("aliked-n16"), max_keypoints=300))
    picture, by = phantoms.texture_image(233, 320, seed=4), np.array([24, 9])
    a, b = made_of.extract(picture[:224, :296]), made_of.extract(picture[9:, 24:])
    distance = np.linalg.norm(a.xy[:, None] - by - b.xy[None], axis=2)
    mutual = (distance == distance.min(1, keepdims=True)) & (distance == distance.min(0)) & (distance < 3)
    return phantoms.FeaturePair(a, b, np.argwhere(mutual).astype(np.int32))

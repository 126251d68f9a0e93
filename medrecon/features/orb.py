# SPDX-License-Identifier: Apache-2.0
"""ORB (Rublee et al., ICCV 2011) by OpenCV: binary descriptors compared by Hamming distance."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from medrecon.config import ComponentConfig
from medrecon.features.prepare import choose, empty, outside_mask, prepare, too_plain, within
from medrecon.images import cv2
from medrecon.types import Features


class OrbExtractorConfig(ComponentConfig):
    max_keypoints: int = Field(4096, ge=1, description="keypoints kept per image, the strongest first")
    fast_threshold: int = Field(7, ge=1, le=255, description="least grey-level step of the FAST corner test")
    scale_factor: float = Field(1.2, gt=1, le=2, description="size ratio of neighbouring pyramid levels")
    levels: int = Field(8, ge=1, le=16, description="pyramid levels")
    patch_size_px: int = Field(
        31, ge=5, le=63, description="side of the described patch; nothing is found nearer the edge"
    )
    max_size_px: int | None = Field(
        2048, ge=32, description="larger images are shrunk to this longest side; null: never"
    )


class OrbExtractor:
    """Descriptors uint8 [N, 32] (256 packed bits), metric "hamming"."""

    def __init__(self, config: OrbExtractorConfig):
        self.config = config

    def extract(self, image: np.ndarray, mask: np.ndarray | None = None) -> Features:
        """image uint8 [H, W] or [H, W, 3] RGB; mask bool [H, W], True = use. Tiny or plain images give no keypoints."""
        c = self.config
        grey, small_mask, factor = prepare(image, mask, c.max_size_px)
        size = image.shape[1], image.shape[0]
        if too_plain(grey, small_mask) or min(grey.shape) <= 2 * c.patch_size_px:
            return empty(size, "orb", "hamming", 32)
        orb = cv2.ORB_create(
            c.max_keypoints,
            c.scale_factor,
            c.levels,
            edgeThreshold=c.patch_size_px,
            patchSize=c.patch_size_px,
            scoreType=cv2.ORB_HARRIS_SCORE,
            fastThreshold=c.fast_threshold,
        )
        # OpenCV honours the mask on every pyramid level before it keeps the strongest.
        cv_mask = None if small_mask is None else small_mask.astype(np.uint8) * 255
        found, descriptors = orb.detectAndCompute(grey, cv_mask)
        if not found:
            return empty(size, "orb", "hamming", 32)
        level = np.array([k.octave for k in found])
        xy = _exact(np.array([k.pt for k in found], np.float64), level, c.scale_factor, grey.shape)
        scores = np.array([k.response for k in found])
        ties = np.array([(k.size, k.angle) for k in found])
        best = choose(xy, scores, ties, small_mask, c.max_keypoints)
        if mask is not None:
            best = best[~outside_mask(xy[best] * factor, mask)]
        return Features(
            within(xy[best] * factor, size),
            scores[best].astype(np.float32),
            np.ascontiguousarray(descriptors[best], np.uint8),
            "hamming",
            size,
            "orb",
            (ties[best, 0] * factor.mean()).astype(np.float32),
            np.deg2rad(ties[best, 1]).astype(np.float32),
        )


def _exact(pt: np.ndarray, level: np.ndarray, scale_factor: float, shape: tuple[int, int]) -> np.ndarray:
    """float64 [N, 2] positions, (0.5, 0.5) the centre of the first pixel, from OpenCV's ``pt`` and pyramid ``level``.

    OpenCV multiplies a level's whole-pixel index by the nominal scale. That forgets that the centre of pixel i lies
    at i + 0.5 of the *level* (1.8 px on the eighth level) and that a level has a whole number of pixels.
    """
    nominal = (scale_factor ** level.astype(np.float64))[:, None]
    size = np.array([shape[1], shape[0]], np.float64)
    return (np.round(pt / nominal) + 0.5) * size / np.round(size / nominal)

# SPDX-License-Identifier: Apache-2.0
"""SIFT (D. Lowe, IJCV 60, 2004) by OpenCV, optionally RootSIFT (Arandjelovic and Zisserman, CVPR 2012, section 2)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from medrecon.config import ComponentConfig
from medrecon.features.prepare import choose, empty, outside_mask, prepare, too_plain, unit_rows, within
from medrecon.images import cv2
from medrecon.types import Features


class SiftExtractorConfig(ComponentConfig):
    max_keypoints: int = Field(4096, ge=1, description="keypoints kept per image, the strongest first")
    contrast_threshold: float = Field(
        0.02, gt=0, le=1, description="least contrast (image range 0..1, times octave_layers); lower finds more"
    )
    edge_threshold: float = Field(10.0, gt=1, description="greatest ratio of principal curvatures; lower is stricter")
    octave_layers: int = Field(3, ge=1, le=8, description="scales per octave")
    sigma: float = Field(1.6, gt=0, description="blur of the first octave, px of the doubled image")
    rootsift: bool = Field(True, description="RootSIFT: Hellinger distance instead of Euclidean")
    max_size_px: int | None = Field(
        2048, ge=32, description="larger images are shrunk to this longest side; null: never"
    )


class SiftExtractor:
    """Descriptors float32 [N, 128] of unit length, metric "l2"."""

    def __init__(self, config: SiftExtractorConfig):
        self.config = config

    def extract(self, image: np.ndarray, mask: np.ndarray | None = None) -> Features:
        """image uint8 [H, W] or [H, W, 3] RGB; mask bool [H, W], True = use. Tiny or plain images give no keypoints."""
        c = self.config
        grey, small_mask, factor = prepare(image, mask, c.max_size_px)
        size = image.shape[1], image.shape[0]
        if too_plain(grey, small_mask):
            return empty(size, "sift", "l2", 128)
        # Precise upscaling: without it every keypoint sits 1/4 px too far to the lower right.
        # nfeatures 0: OpenCV would cut to the strongest before it looks at the mask.
        sift = cv2.SIFT_create(0, c.octave_layers, c.contrast_threshold, c.edge_threshold, c.sigma, True)
        cv_mask = None if small_mask is None else small_mask.astype(np.uint8) * 255
        found, raw = sift.detectAndCompute(grey, cv_mask)
        if not found:
            return empty(size, "sift", "l2", 128)
        # OpenCV puts (0, 0) at the centre of the first pixel, we put (0.5, 0.5) there.
        xy = np.array([k.pt for k in found], np.float64) + 0.5
        scores = np.array([k.response for k in found])
        ties = np.array([(k.size, k.angle) for k in found])
        best = choose(xy, scores, ties, small_mask, c.max_keypoints)
        if mask is not None:  # shrinking may have blurred the rim: the mask at full size decides
            best = best[~outside_mask(xy[best] * factor, mask)]
        raw = raw[best]
        if c.rootsift:
            raw = np.sqrt(raw / np.maximum(raw.sum(1, keepdims=True), 1e-12))
        return Features(
            within(xy[best] * factor, size),
            scores[best].astype(np.float32),
            unit_rows(raw),
            "l2",
            size,
            "sift",
            (ties[best, 0] * factor.mean()).astype(np.float32),
            np.deg2rad(ties[best, 1]).astype(np.float32),
        )

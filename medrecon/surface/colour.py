# SPDX-License-Identifier: Apache-2.0
"""Vertex colours from the training pictures that see the vertex."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

from medrecon.types import Frame


class ColourBlend:
    """Average of the pictures' colours, weighted by the squared cosine of the viewing angle, without masked pixels."""

    def __init__(self, n_vertices: int):
        self._sum = np.zeros((n_vertices, 3))
        self._weight = np.zeros(n_vertices)

    def add(
        self, frame: Frame, size_px: tuple[int, int], xy_px: np.ndarray, cosine: np.ndarray, index: np.ndarray
    ) -> None:
        """Adds one picture.

        Args:
            size_px: (width, height) of the camera that ``xy_px`` belongs to; the picture may be larger.
            xy_px, cosine: of the vertices ``index`` int [n].
        """
        image = frame.load_image().astype(np.float32)
        mask = frame.load_mask()
        h, w = image.shape[:2]
        # Pixel (0.5, 0.5) is the sample with index (0, 0).
        ij = np.stack([xy_px[:, 1] * h / size_px[1] - 0.5, xy_px[:, 0] * w / size_px[0] - 0.5])
        weight = np.maximum(cosine, 0.0) ** 2
        if mask is not None:
            near = np.clip(np.rint(ij).astype(int), 0, [[h - 1], [w - 1]])
            weight = weight * mask[near[0], near[1]]
        for c in range(3):
            self._sum[index, c] += weight * map_coordinates(image[..., c], ij, order=1, mode="nearest")
        self._weight[index] += weight

    def result(self) -> np.ndarray:
        """uint8 [V, 3]; mid-grey where no picture counts."""
        mean = self._sum / np.maximum(self._weight, 1e-12)[:, None]
        return np.where(self._weight[:, None] > 0, np.clip(np.rint(mean), 0, 255), 128).astype(np.uint8)

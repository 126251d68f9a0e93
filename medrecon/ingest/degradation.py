# SPDX-License-Identifier: Apache-2.0
"""Real pictures made harder on purpose: less light, exposure that varies, noise."""

from __future__ import annotations

import numpy as np

from medrecon.ingest.exposure import Exposure, ExposureConfig


class Degradation(ExposureConfig):
    """How pictures are spoilt, to see what a method stands."""

    def apply(self, image: np.ndarray, index: int) -> np.ndarray:
        """uint8 [H, W] or [H, W, 3] RGB -> the same, of the picture number ``index``; grey ones take green's gain."""
        random = np.random.default_rng([self.seed, index])
        exposure = Exposure.draw(self, random)
        grey = image.ndim == 2
        colours = (np.repeat(image[..., None], 3, 2) if grey else image).astype(np.float32) / 255
        levels = 255.0 * exposure.apply(colours)
        levels = levels[..., 1] if grey else levels
        if self.noise_sigma:
            levels = levels + self.noise_sigma * random.standard_normal(levels.shape)
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)

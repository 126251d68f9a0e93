# SPDX-License-Identifier: Apache-2.0
"""Real pictures made harder on purpose: less light, exposure that varies, noise."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from medrecon.config.base import ComponentConfig
from medrecon.ingest.exposure import Exposure


class Degradation(ComponentConfig):
    """How pictures are spoilt, to see what a method stands; each by a random generator of its own."""

    gain: float = Field(1.0, gt=0, le=10, description="how bright all pictures are: 0.25 is a quarter of the light")
    exposure_jitter: float = Field(0.0, ge=0, le=1, description="standard deviation of the log of each picture's gain")
    gamma_jitter: float = Field(0.0, ge=0, le=1, description="and of the log of its gamma")
    white_balance_jitter: float = Field(
        0.0, ge=0, le=1, description="and of the log of red and of blue, as against green"
    )
    strong_share: float = Field(
        0.0, ge=0, le=1, description="share of the pictures whose gain, gamma and white balance stray twice as far"
    )
    noise_sigma: float = Field(0.0, ge=0, le=100, description="standard deviation of the noise, in grey levels of 255")
    seed: int = Field(0, ge=0, description="seed of jitter and noise")

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

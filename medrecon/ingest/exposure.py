# SPDX-License-Identifier: Apache-2.0
"""How a camera that sets itself anew for every picture changes it: gain, gamma, white balance; and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from medrecon.config.base import ComponentConfig

STRONG = 2.0  # how much farther a strongly changed picture strays


class ExposureConfig(ComponentConfig):
    """How unevenly pictures are taken; each has a random generator of its own."""

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


@dataclass(frozen=True, slots=True)
class Exposure:
    """colour -> (gain * colour) ** gamma, with a gain for each channel.

    Attributes:
        gain: red, green, blue.
        gamma: 1 changes nothing.
    """

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gamma: float = 1.0

    @staticmethod
    def draw(options: ExposureConfig, random: np.random.Generator) -> "Exposure":
        """One picture's exposure. What is switched off draws no numbers."""
        draw = lambda sigma: sigma * random.standard_normal() if sigma else 0.0  # noqa: E731
        gain, gamma = draw(options.exposure_jitter), draw(options.gamma_jitter)
        red, blue = draw(options.white_balance_jitter), draw(options.white_balance_jitter)
        strength = STRONG if options.strong_share and random.random() < options.strong_share else 1.0
        channels = options.gain * np.exp(strength * (gain + np.array([red, 0.0, blue])))
        return Exposure(tuple(channels.tolist()), float(np.exp(strength * gamma)))

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """float [H, W, 3], 0..1 being what the sensor can tell apart; what is brighter is left so, to be cut off."""
        return (rgb * np.array(self.gain, rgb.dtype)) ** np.array(self.gamma, rgb.dtype)

# SPDX-License-Identifier: Apache-2.0
"""How a camera that sets itself anew for every picture changes it: gain, gamma and white balance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

STRONG = 2.0  # how much farther a strongly changed picture strays


class ExposureOptions(Protocol):
    """Attributes:
    gain: of every picture.
    exposure_jitter, gamma_jitter, white_balance_jitter: standard deviations of logarithms.
    strong_share: of the pictures, from 0 to 1.
    """

    gain: float
    exposure_jitter: float
    gamma_jitter: float
    white_balance_jitter: float
    strong_share: float


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
    def draw(options: ExposureOptions, random: np.random.Generator) -> "Exposure":
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

# SPDX-License-Identifier: Apache-2.0
"""What can happen to a picture between two views: noise, blur, another light, something in the way, another contrast.

Each function takes a strength that grows with the damage and a generator, and leaves every pixel where it was.
"""

from __future__ import annotations

import numpy as np

from medrecon.images import cv2

# What the strengths mean, for tables and axes.
STRENGTH = {
    "noise": "standard deviation of Gaussian noise, grey levels of 255",
    "blur": "standard deviation of Gaussian blur, px",
    "illumination": "strength of gain, gamma and a moved spot light, 0 to 1",
    "occlusion": "share of the picture that is covered",
    "viewpoint": "angle between the viewing directions, degrees",
}


def noise(image: np.ndarray, sigma: float, random: np.random.Generator) -> np.ndarray:
    """Gaussian noise, independent per channel; uint8 [H, W, 3] in and out."""
    return _to_u8(image + sigma * random.standard_normal(image.shape))


def blur(image: np.ndarray, sigma_px: float, random: np.random.Generator) -> np.ndarray:
    """Gaussian blur (an optic out of focus)."""
    return cv2.GaussianBlur(image, (0, 0), sigma_px) if sigma_px > 0 else image


def illumination(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Gain and gamma at random, and a spot light at a random place that leaves the rest dark.

    At strength 1 the gain lies in 1/2..2, the gamma in 1/2..2, and the light falls to a fifth at one picture height.
    """
    h, w = image.shape[:2]
    gain, gamma = 2.0 ** (strength * random.uniform(-1, 1, 2))
    x, y = random.uniform(0.2, 0.8, 2) * (w, h)
    away = np.hypot(np.arange(w) + 0.5 - x, (np.arange(h) + 0.5 - y)[:, None]) / h
    light = 5.0 ** (-strength * away**2)
    return _to_u8(255 * np.clip(gain * light[..., None] * (image / 255.0) ** gamma, 0, 1))


def occlude(image: np.ndarray, share: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A dark straight bar across the picture, such as the shaft of an instrument, that covers ``share`` of it.

    Returns:
        image uint8 [H, W, 3], covered bool [H, W].
    """
    h, w = image.shape[:2]
    angle = random.uniform(0, np.pi)
    across = (np.arange(w) + 0.5 - w / 2) * np.cos(angle) + (np.arange(h)[:, None] + 0.5 - h / 2) * np.sin(angle)
    low = random.uniform(0, 1 - share) if share < 1 else 0.0
    first, last = np.quantile(across, (low, min(low + share, 1.0)))
    covered = (across >= first) & (across <= last)
    # Round and lit along the middle, with the grain of a real picture: a bar of one colour would be no temptation.
    shade = 40 + 90 * np.sin(np.pi * np.clip((across - first) / max(last - first, 1e-9), 0, 1))
    grain = shade + 6 * random.standard_normal((h, w))
    return np.where(covered[..., None], _to_u8(grain)[..., None], image), covered


def invert(image: np.ndarray) -> np.ndarray:
    """Black for white."""
    return 255 - image


def _to_u8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)

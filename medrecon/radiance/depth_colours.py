# SPDX-License-Identifier: Apache-2.0
"""Depth as colours, for pictures and videos."""

from __future__ import annotations

import numpy as np

from medrecon.images import cv2

NOTHING = 128  # grey, where nothing was hit


def depth_range(depths: np.ndarray) -> tuple[float, float]:
    """The depths at both ends of the colours: 2 % of what was hit (> 0) lies nearer, 2 % farther; (0, 0) of nothing."""
    hit = depths[depths > 0]
    if not len(hit):
        return 0.0, 0.0
    near, far = np.percentile(hit, (2, 98))
    return float(near), float(far)


def depth_picture(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """uint8 [H, W, 3] of a depth map [H, W]: viridis from ``near``, bright, to ``far``, dark; grey where depth is 0."""
    share = np.clip(1 - (depth - near) / max(far - near, 1e-12), 0, 1)
    colours = cv2.applyColorMap(np.round(share * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    colours[~(depth > 0)] = NOTHING
    return cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)

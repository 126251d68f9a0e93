# SPDX-License-Identifier: Apache-2.0
"""SURF (Bay et al., CVIU 110, 2008): mahotas' implementation, or OpenCV's where a non-free build is installed."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field
from scipy.spatial import cKDTree

from medrecon.config import ComponentConfig
from medrecon.errors import ConfigError
from medrecon.features.prepare import choose, empty, outside_mask, prepare, too_plain, unit_rows, within
from medrecon.features.surf_refine import refine
from medrecon.images import cv2
from medrecon.types import Features


class SurfExtractorConfig(ComponentConfig):
    max_keypoints: int = Field(4096, ge=1, description="keypoints kept per image, the strongest first")
    backend: Literal["auto", "mahotas", "opencv"] = Field(
        "auto",
        description="auto: OpenCV's where its build has it (patent-free since 2020, still a build flag), else mahotas",
    )
    threshold: float = Field(1.0, ge=0, description="least determinant of the Hessian, on mahotas' scale")
    opencv_threshold: float = Field(100.0, ge=0, description="the same on OpenCV's scale")
    octaves: int = Field(4, ge=1, le=8, description="octaves of the scale space")
    scales: int = Field(6, ge=3, le=12, description="scales per octave (mahotas counts the overlapping ones)")
    initial_step_px: int = Field(1, ge=1, le=4, description="sampling step of the first octave (mahotas only)")
    max_size_px: int | None = Field(
        2048, ge=32, description="larger images are shrunk to this longest side; null: never"
    )


def opencv_surf_available() -> bool:
    """True where cv2 was built with xfeatures2d and the non-free flag."""
    factory = getattr(getattr(cv2, "xfeatures2d", None), "SURF_create", None)
    if factory is None:
        return False
    try:
        factory()
    except cv2.error:  # present in the bindings, refused at run time
        return False
    return True


class SurfExtractor:
    """Descriptors float32 [N, 64] of unit length, metric "l2".

    Raises ConfigError when OpenCV's is asked for and not built in.
    """

    def __init__(self, config: SurfExtractorConfig):
        self.config = config
        if config.backend == "opencv" and not opencv_surf_available():
            raise ConfigError(
                "surf: this OpenCV was built without SURF",
                "set backend: mahotas, or build OpenCV with OPENCV_ENABLE_NONFREE",
            )
        self.backend = config.backend
        if config.backend == "auto":
            self.backend = "opencv" if opencv_surf_available() else "mahotas"

    def extract(self, image: np.ndarray, mask: np.ndarray | None = None) -> Features:
        """image uint8 [H, W] or [H, W, 3] RGB; mask bool [H, W], True = use. Tiny or plain images give no keypoints."""
        c = self.config
        grey, small_mask, factor = prepare(image, mask, c.max_size_px)
        size = image.shape[1], image.shape[0]
        if too_plain(grey, small_mask):
            return empty(size, "surf", "l2", 64)
        detect = self._opencv if self.backend == "opencv" else self._mahotas
        xy, scores, diameter, angle, descriptors = detect(grey, small_mask)
        if mask is not None and len(xy):
            keep = ~outside_mask(xy * factor, mask)
            xy, scores, diameter, angle, descriptors = (a[keep] for a in (xy, scores, diameter, angle, descriptors))
        if not len(xy):
            return empty(size, "surf", "l2", 64)
        return Features(
            within(xy * factor, size),
            scores.astype(np.float32),
            unit_rows(descriptors),
            "l2",
            size,
            "surf",
            (diameter * factor.mean()).astype(np.float32),
            angle.astype(np.float32),
        )

    def _mahotas(self, grey: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """xy [N, 2], scores, diameter, angle, descriptors [N, 64], best first, in working pixels."""
        from mahotas.features import surf

        c = self.config
        # One integral image for both steps. Float64: mahotas would sum in the dtype it is given.
        integral = surf.integral(grey.astype(np.float64))
        points = surf.interest_points(integral, c.octaves, c.scales, c.initial_step_px, c.threshold, is_integral=True)
        points = points.reshape(-1, 5)
        points = points[np.isfinite(points).all(1)]
        points[:, :2] = refine(integral, points[:, :2], points[:, 2])
        points = points[_distinct(points)]
        # mahotas says row, column; (0, 0) is the centre of the first pixel.
        best = choose(points[:, 1::-1] + 0.5, points[:, 3], points[:, [2, 4]], mask, len(points))
        # Points whose window leaves the image get no descriptor and are left out by mahotas: then take more.
        n = c.max_keypoints
        while True:
            rows = surf.descriptors(integral, np.ascontiguousarray(points[best[:n]]), is_integral=True).reshape(-1, 70)
            if len(rows) >= c.max_keypoints or n >= len(best):
                break
            n += 2 * (c.max_keypoints - len(rows))
        rows = rows[np.isfinite(rows).all(1)][: c.max_keypoints]
        # mahotas measures angles against the row axis, hence the sign.
        return rows[:, 1::-1] + 0.5, rows[:, 3], 2 * rows[:, 2], -rows[:, 5], rows[:, 6:]

    def _opencv(self, grey: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """The same by OpenCV's non-free module."""
        c = self.config
        engine = cv2.xfeatures2d.SURF_create(c.opencv_threshold, c.octaves, max(1, c.scales - 2), False, False)
        found = engine.detect(grey, None)
        xy = np.array([k.pt for k in found], np.float64).reshape(-1, 2) + 0.5
        scores = np.array([k.response for k in found])
        ties = np.array([(k.size, k.angle) for k in found]).reshape(-1, 2)
        best = choose(xy, scores, ties, mask, c.max_keypoints)
        if not len(best):
            return xy[:0], scores[:0], scores[:0], scores[:0], np.zeros((0, 64))
        _, descriptors = engine.compute(grey, [found[i] for i in best])
        return xy[best], scores[best], ties[best, 0], np.deg2rad(ties[best, 1]), descriptors


def _distinct(points: np.ndarray) -> np.ndarray:
    """bool [N]: False for the weaker of two finds of one blob, made by octaves whose scales overlap.

    Args:
        points: float64 [N, 5] row, column, scale, score, sign. Twins would fail each other in any ratio test.
    """
    keep = np.ones(len(points), bool)
    for i, j in sorted(cKDTree(points[:, :2]).query_pairs(1.0)) if len(points) else ():
        if 1 / 1.5 < points[i, 2] / points[j, 2] < 1.5:
            keep[i if points[i, 3] < points[j, 3] else j] = False
    return keep

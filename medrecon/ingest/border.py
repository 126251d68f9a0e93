# SPDX-License-Identifier: Apache-2.0
"""Finds the circular view of an endoscope: a bright disc that stays put on a black surround."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from medrecon.images import cv2

# Frames are looked at with this longest side, and not more of them than this.
WORKING_PX = 480
MAX_FRAMES = 40
# Grey level (0..255) up to which the surround counts as black; video coding lifts it a little.
BLACK_LEVEL = 24
# An endoscope's disc reaches across the shorter side of the picture, or nearly (then a black rim is left all around).
MIN_EXTENT = 0.85
# Greatest root mean square distance of the rim from the circle, as a fraction of the radius.
MAX_RESIDUAL = 0.012


@dataclass(frozen=True, slots=True)
class Circle:
    """A disc in fractions, so that it fits every size of the same picture.

    Attributes:
        cx: centre, fraction of the width.
        cy: centre, fraction of the height.
        r: radius, fraction of the shorter side.
    """

    cx: float
    cy: float
    r: float

    def mask(self, width_px: int, height_px: int, margin: float = 0.0) -> np.ndarray:
        """bool [H, W], True inside; ``margin`` (fraction of the radius) is taken off the rim."""
        radius = self.r * min(width_px, height_px) * (1 - margin)
        dx = np.arange(width_px) + 0.5 - self.cx * width_px
        dy = np.arange(height_px) + 0.5 - self.cy * height_px
        return dx[None] ** 2 + dy[:, None] ** 2 <= radius**2


def find_circle(images: Iterable[np.ndarray]) -> Circle | None:
    """The endoscope's disc common to all ``images`` (uint8 [H, W, 3] or [H, W] of one size), or None.

    The brightest each pixel ever gets (leaving out a few outliers) separates what is never lit from what is. The
    largest lit region must have a rim that is one circle, must reach across the picture, the surround must stay
    black, and the same rim must be there in most single frames: that tells the disc from an object that turns in
    front of a black background. Where the disc shakes a little, the result is its middle position, made smaller by
    how far it shakes, so that it is inside the view nearly always.
    """
    stack = [_working(image) for image in images]
    if not stack:
        return None
    levels = np.stack(stack)
    found = _detect(np.percentile(levels, 90, axis=0))
    if found is None or not _rim_is_still(levels, found):
        return None
    own = [c for c in (_near(_detect(level), found) for level in levels) if c is not None]
    if len(own) < 3:
        return found
    h, w = levels.shape[1:]
    table = np.array([(c.cx, c.cy, c.r) for c in own])
    middle = np.median(table, axis=0)
    shift = (table - middle) * np.array([w, h, min(h, w)]) / min(h, w)
    shake = np.percentile(np.hypot(shift[:, 0], shift[:, 1]) - np.minimum(shift[:, 2], 0), 90)
    return Circle(float(middle[0]), float(middle[1]), float(middle[2] - shake))


def follow_circle(image: np.ndarray, common: Circle) -> Circle:
    """The disc in this one frame where it can be made out near the common one, else the common one."""
    return _near(_detect(_working(image)), common) or common


def _working(image: np.ndarray) -> np.ndarray:
    """uint8 [h, w]: brightest channel, shrunk."""
    value = image if image.ndim == 2 else image.max(2)
    f = min(1.0, WORKING_PX / max(value.shape))
    size = max(1, round(value.shape[1] * f)), max(1, round(value.shape[0] * f))
    return cv2.resize(value, size, interpolation=cv2.INTER_AREA)


def _near(circle: Circle | None, common: Circle) -> Circle | None:
    """``circle`` unless it lies more than a tenth of the radius off ``common``."""
    if circle is None:
        return None
    off = max(abs(circle.cx - common.cx), abs(circle.cy - common.cy), abs(circle.r - common.r))
    return circle if off <= 0.1 * common.r else None


def _detect(level: np.ndarray) -> Circle | None:
    """A disc that reaches across the picture, lit inside and black outside; ``level`` [h, w] in 0..255."""
    h, w = level.shape
    if min(h, w) < 32:
        return None
    lit = level > BLACK_LEVEL
    region = _largest_region(lit)
    if not 0.15 < region.mean() < 0.99:
        return None
    fit = _fit(_rim(region), h, w)
    if fit is None or not _reaches_across(*fit, h, w):
        return None
    cx, cy, r = fit
    found = Circle(cx / w, cy / h, r / min(h, w))
    beyond = ~found.mask(w, h, -0.03)
    if beyond.mean() < 0.005 or lit[beyond].mean() > 0.15:  # text beside the disc is allowed
        return None
    # Dark hollows are allowed too, but the disc as a whole is lit.
    return found if lit[found.mask(w, h, 0.03)].mean() > 0.6 else None


def _largest_region(lit: np.ndarray) -> np.ndarray:
    """bool [H, W]: largest connected lit region, opened a little (thin text, reflections) and with holes filled."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    clean = cv2.morphologyEx(lit.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    n, labels, stats, _ = cv2.connectedComponentsWithStats(clean, connectivity=4)
    if n < 2:
        return np.zeros_like(lit)
    region = (labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(region), contours, -1, 1, cv2.FILLED).astype(bool)


def _rim(region: np.ndarray) -> np.ndarray:
    """float [N, 2] centres of rim pixels that do not lie on the picture's own edge.

    Only those on the convex hull: a disc is convex, what dents it (an instrument, a dark hollow) is not its rim.
    """
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = np.concatenate(contours)[:, 0]
    h, w = region.shape
    hull = cv2.fillConvexPoly(np.zeros((h + 2, w + 2), np.uint8), cv2.convexHull(points + 1), 1)
    depth = cv2.distanceTransform(hull, cv2.DIST_L2, 5)[points[:, 1] + 1, points[:, 0] + 1]
    inner = (depth < 2.5) & (points > 2).all(1) & (points[:, 0] < w - 3) & (points[:, 1] < h - 3)
    return points[inner] + 0.5


def _fit(rim: np.ndarray, h: int, w: int) -> tuple[float, float, float] | None:
    """Circle (cx, cy, r) px through the rim, or None when the rim is too short or no circle.

    Algebraic least squares (Kasa), repeated without the points that lie off: an instrument that enters the view
    or a dark wall breaks the rim in places.
    """
    if len(rim) < 40:
        return None
    keep = np.ones(len(rim), bool)
    for _ in range(10):
        p = rim[keep]
        system = np.concatenate([2 * p, np.ones((len(p), 1))], 1)
        solution, *_ = np.linalg.lstsq(system, (p**2).sum(1), rcond=None)
        cx, cy = solution[:2]
        square = solution[2] + cx**2 + cy**2
        if square <= 0:
            return None
        r = float(np.sqrt(square))
        off = np.abs(np.hypot(rim[:, 0] - cx, rim[:, 1] - cy) - r)
        limit = max(1.5, 3 * float(np.median(off)))
        fresh = off <= limit
        if fresh.sum() < 40 or (fresh == keep).all():
            break
        keep = fresh
    near = off <= max(1.5, 0.02 * r)
    angles = np.arctan2(rim[near, 1] - cy, rim[near, 0] - cx)
    covered = len(np.unique(np.floor((angles + np.pi) / (2 * np.pi) * 72))) / 72
    # Of the circle, only what lies in the picture can have a rim.
    turn = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    x, y = cx + r * np.cos(turn), cy + r * np.sin(turn)
    visible = ((x > 2) & (x < w - 2) & (y > 2) & (y < h - 2)).mean()
    if near.mean() < 0.75 or visible < 0.1 or covered < 0.7 * visible:
        return None
    if np.sqrt(np.mean(off[near] ** 2)) > max(1.0, MAX_RESIDUAL * r):
        return None
    return float(cx), float(cy), r


def _reaches_across(cx: float, cy: float, r: float, h: int, w: int) -> bool:
    """True where the disc spans nearly the whole shorter side of the picture."""
    if h <= w:
        return min(cy + r, h) - max(cy - r, 0) >= MIN_EXTENT * h
    return min(cx + r, w) - max(cx - r, 0) >= MIN_EXTENT * w


def _rim_is_still(levels: np.ndarray, circle: Circle) -> bool:
    """True where most single frames are lit just inside the circle along most of it and black just outside."""
    h, w = levels.shape[1:]
    cx, cy, r = circle.cx * w, circle.cy * h, circle.r * min(h, w)
    turn = np.linspace(0, 2 * np.pi, 180, endpoint=False)

    def ring(factor: float) -> tuple[np.ndarray, np.ndarray]:
        x = np.round(cx + factor * r * np.cos(turn) - 0.5).astype(int)
        y = np.round(cy + factor * r * np.sin(turn) - 0.5).astype(int)
        return x, y

    (xi, yi), (xo, yo) = ring(0.95), ring(1.04)
    inside = (xo >= 0) & (xo < w) & (yo >= 0) & (yo < h)
    inside &= (xi >= 0) & (xi < w) & (yi >= 0) & (yi < h)
    if inside.sum() < 12:
        return False
    lit = (levels[:, yi[inside], xi[inside]] > BLACK_LEVEL).mean(1)
    black = (levels[:, yo[inside], xo[inside]] <= BLACK_LEVEL).mean(1)
    return float(np.median(lit)) >= 0.6 and float(np.median(black)) >= 0.8

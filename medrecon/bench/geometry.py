# SPDX-License-Identifier: Apache-2.0
"""Where a pixel of one picture lies in another: true correspondences from depth and poses, or from a homography."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from medrecon.images import cv2
from medrecon.types import Camera, Rigid3

# Share of the depth. Depth is known per pixel and a keypoint lies between pixels: within one, a surface seen at 75
# degrees differs by this much when the focal length is some 700 pixels.
OCCLUSION_TOLERANCE = 0.005
EDGE = 0.02  # step in depth, share of it, that is an edge of the object and no slope


class PairTruth(Protocol):
    """The truth of one ordered pair of pictures, a and b."""

    def a_to_b(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels of a, float [N, 2] -> (pixels of b float64 [N, 2], known bool [N], visible bool [N]).

        known: the truth says where the point is; visible: and b shows it (inside the picture, not hidden).
        """

    def b_to_a(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same from b to a."""


def look_up(table: np.ndarray, xy: np.ndarray, outside: float | bool) -> np.ndarray:
    """[N] values of ``table`` [H, W] at the pixels that hold ``xy`` float [N, 2]; ``outside`` beyond the border."""
    h, w = table.shape
    inside = np.isfinite(xy).all(1) & (xy >= 0).all(1) & (xy < (w, h)).all(1)
    column, row = np.floor(np.where(inside[:, None], xy, 0)).astype(np.int64).T
    return np.where(inside, table[row, column], outside)


def foreground(depth: np.ndarray) -> np.ndarray:
    """Depth float32 [H, W] with every edge grown by one pixel: a corner found there belongs to what lies in front.

    A pixel with nothing in it, or further than its nearest neighbour of 3 x 3 by more than ``EDGE``, takes that one's.
    """
    nowhere = np.finfo(np.float32).max
    nearest = cv2.erode(np.where(depth > 0, depth, nowhere).astype(np.float32), np.ones((3, 3), np.uint8))
    nearest = np.where(nearest < nowhere, nearest, np.float32(0))
    return np.where((depth <= 0) | (depth - nearest > EDGE * depth), nearest, depth)


@dataclass(frozen=True)
class DepthPair:
    """Two views of a rigid scene with exact depth.

    A point of a is carried to 3-D with a's ``foreground`` depth, into b's frame with the poses, and projected. It is
    visible in b where b's depth at that pixel is not smaller than the point's by more than ``OCCLUSION_TOLERANCE``.

    Attributes:
        camera: of both pictures.
        cam_a_from_world, cam_b_from_world: poses, mm.
        depth_a, depth_b: z-depth float32 [H, W] mm, 0 where nothing is.
        hidden_b: bool [H, W], True where something that is not in the scene was put over b; None: nowhere.
    """

    camera: Camera
    cam_a_from_world: Rigid3
    cam_b_from_world: Rigid3
    depth_a: np.ndarray
    depth_b: np.ndarray
    hidden_b: np.ndarray | None = None

    @property
    def cam_b_from_a(self) -> Rigid3:
        return self.cam_b_from_world @ self.cam_a_from_world.inverse()

    def a_to_b(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        there, known, visible = self._carry(xy, self._front_a, self._front_b, self.depth_b, self.cam_b_from_a)
        return there, known, visible & ~_hidden(self.hidden_b, there)

    def b_to_a(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        back = self.cam_b_from_a.inverse()
        there, known, visible = self._carry(xy, self._front_b, self._front_a, self.depth_a, back)
        shown = ~_hidden(self.hidden_b, np.asarray(xy, np.float64).reshape(-1, 2))
        return there, known & shown, visible & shown

    @cached_property
    def _front_a(self) -> np.ndarray:
        return foreground(self.depth_a)

    @cached_property
    def _front_b(self) -> np.ndarray:
        return foreground(self.depth_b)

    def _carry(self, xy, front_here, front_there, depth_there: np.ndarray, there_from_here: Rigid3):
        xy = np.asarray(xy, np.float64).reshape(-1, 2)
        z = look_up(front_here, xy, 0.0).astype(np.float64)
        known = z > 0
        moved = there_from_here.apply(self.camera.unproject(xy) * z[:, None])
        there = self.camera.project(moved)
        # The rim of an edge shows what is before it and what is behind; beside the object it shows the object.
        surface = look_up(np.where(depth_there > 0, depth_there, front_there), there, 0.0)
        visible = known & (surface > 0) & (moved[:, 2] <= surface * (1 + OCCLUSION_TOLERANCE))
        return there, known, visible


@dataclass(frozen=True)
class HomographyPair:
    """Two pictures related by a plane-to-plane mapping.

    Attributes:
        b_from_a: float64 [3, 3], pixels of a to pixels of b (both with the centre of the first pixel at (0.5, 0.5)).
        size_a, size_b: (width, height) px.
        valid_b: bool [H, W], False where b shows nothing of a's original; None: everywhere.
        hidden_b: as in ``DepthPair``.
    """

    b_from_a: np.ndarray
    size_a: tuple[int, int]
    size_b: tuple[int, int]
    valid_b: np.ndarray | None = field(default=None)
    hidden_b: np.ndarray | None = field(default=None)

    def a_to_b(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        there = transfer(self.b_from_a, xy)
        visible = _inside(there, self.size_b) & ~_hidden(self.hidden_b, there)
        if self.valid_b is not None:
            visible &= look_up(self.valid_b, there, False)
        return there, np.ones(len(there), bool), visible

    def b_to_a(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        xy = np.asarray(xy, np.float64).reshape(-1, 2)
        there = transfer(np.linalg.inv(self.b_from_a), xy)
        known = ~_hidden(self.hidden_b, xy)
        if self.valid_b is not None:
            known &= look_up(self.valid_b, xy, False)
        return there, known, known & _inside(there, self.size_a)


def with_hidden(truth: PairTruth, hidden_b: np.ndarray | None) -> PairTruth:
    """The same truth where part of b was covered: bool [H, W], True = covered."""
    return truth if hidden_b is None else replace(truth, hidden_b=hidden_b)


def transfer(homography: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """float64 [N, 2]: pixels under a homography float [3, 3]; NaN for points sent to or behind infinity."""
    xy = np.asarray(xy, np.float64).reshape(-1, 2)
    p = np.concatenate([xy, np.ones((len(xy), 1))], 1) @ np.asarray(homography, np.float64).T
    w = np.where(p[:, 2:] > 1e-12, p[:, 2:], np.nan)
    return p[:, :2] / w


def _inside(xy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (xy >= 0).all(1) & (xy < size).all(1)


def _hidden(hidden: np.ndarray | None, xy: np.ndarray) -> np.ndarray:
    return np.zeros(len(xy), bool) if hidden is None else look_up(hidden, xy, False)

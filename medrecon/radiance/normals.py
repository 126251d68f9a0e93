# SPDX-License-Identifier: Apache-2.0
"""Surface normals out of a depth map."""

from __future__ import annotations

import cv2
import numpy as np


def normals_from_depth(depth: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Unit normals float32 [H, W, 3] in the camera's axes, turned to the camera (n . ray < 0); 0 where there is none.

    The cross product of the surface's tangents along rows and columns. A tangent is the central difference of the
    points that the pixels show; beside an edge, where the steps to both neighbours differ by much more than a slanted
    plane's would, it is the smaller of the two steps. Each pixel then gets the mean of its 3 x 3 neighbours' normals.

    The gradient of the density is the other way to normals. It is noisier, being a derivative of what no picture shows
    directly, and within thin or evenly dense matter it says nothing of the surface.

    Args:
        depth: float [H, W], z-depth; 0 = nothing hit.
        directions: float [H, W, 3] of the pixels' rays in the camera's axes, z = 1.
    """
    points = depth[..., None] * directions
    hit = depth > 0
    normal = np.cross(_tangent(points, hit, 0), _tangent(points, hit, 1))
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    normal = np.where(length > 0, normal / np.maximum(length, 1e-30), 0.0)
    away = (normal * directions).sum(-1, keepdims=True) > 0
    turned = np.where(away, -normal, normal).astype(np.float32)
    mean = cv2.boxFilter(turned, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    mean /= np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-30)
    return np.where(length > 0, mean, 0.0).astype(np.float32)


def _tangent(points: np.ndarray, hit: np.ndarray, axis: int) -> np.ndarray:
    """Difference vectors [H, W, 3] along an axis; 0 where no neighbour is hit."""
    step = np.diff(points, axis=axis)
    whole = np.logical_and(*(np.take(hit, np.arange(n, hit.shape[axis] - 1 + n), axis) for n in (0, 1)))
    pad = [(0, 0)] * 3
    before, after = pad.copy(), pad.copy()
    before[axis], after[axis] = (1, 0), (0, 1)
    backward, forward = np.pad(step, before), np.pad(step, after)
    has_back, has_fore = np.pad(whole, before[:2]), np.pad(whole, after[:2])
    back, fore = np.abs(backward[..., 2]), np.abs(forward[..., 2])
    # How far a step goes sideways is the size of a pixel there: noise below it is no edge.
    side = np.minimum(*(np.linalg.norm(s[..., :2], axis=-1) for s in (backward, forward)))
    smooth = has_back & has_fore & (np.maximum(back, fore) <= 3 * np.minimum(back, fore) + 2 * side)
    take_back = has_back & ~smooth & (~has_fore | (back < fore))
    take_fore = has_fore & ~smooth & ~take_back
    out = np.where(smooth[..., None], 0.5 * (backward + forward), 0.0)
    out = np.where(take_back[..., None], backward, out)
    return np.where(take_fore[..., None], forward, out)

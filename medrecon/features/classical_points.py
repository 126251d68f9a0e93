# SPDX-License-Identifier: Apache-2.0
"""Corners and blobs of the classical detectors as a map of scores, for descriptors that a network gives.

Scores are in 0..1, depend on nothing but the pixels around them, and mean the same in every picture.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch

from medrecon.features.prepare import MIN_SIDE_PX
from medrecon.features.superpoint_keypoints import find_keypoints
from medrecon.images import cv2

ClassicalDetector = Literal["shi-tomasi", "sift"]
_WINDOW_PX = 3  # of the structure tensor
_OCTAVE_LAYERS = 3
# No keypoint leaves its pixel, so that what a mask allowed stays allowed (in float32 too).
_LARGEST_OFFSET_PX = 0.49


class Found(NamedTuple):
    """Keypoints row by row.

    Attributes:
        row, column: int64 [N] pixel indices.
        scores: float32 [N] in 0..1.
        offset: float64 [N, 2] (x, y) px from the pixel's centre.
    """

    row: np.ndarray
    column: np.ndarray
    scores: np.ndarray
    offset: np.ndarray


def find_classical(detector: ClassicalDetector, grey: np.ndarray, radius: int, threshold: float) -> Found:
    """Local maxima of the detector's scores above ``threshold``, suppressed as SuperPoint's own are.

    Args:
        grey: uint8 [H, W].
        radius: of the non-maximum suppression, px.
    """
    if detector == "sift":
        scores, offsets = blob_scores(grey, threshold)
        row, column, values = find_keypoints(torch.from_numpy(scores), radius, threshold)
        return Found(row, column, values, offsets[row, column])
    scores = corner_scores(grey)
    row, column, values = find_keypoints(torch.from_numpy(scores), radius, threshold)
    return Found(row, column, values, peak_offsets(scores, row, column))


def corner_scores(grey: np.ndarray) -> np.ndarray:
    """float32 [H, W] in 0..1: how much the grey value (0..1) changes per px in the direction of least change.

    The root of the lesser eigenvalue of the mean structure tensor in 3 x 3 px (Shi and Tomasi, "Good features to
    track", CVPR 1994, section 4), with Sobel's derivatives.
    """
    # OpenCV sums the products of derivatives that are 8 / (4 * window) times too large: window^2 of them.
    least = cv2.cornerMinEigenVal(grey, _WINDOW_PX, ksize=3) / 4
    return np.minimum(np.sqrt(np.maximum(least, 0)), 1)


def peak_offsets(scores: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Offsets float64 [N, 2] (x, y) px from pixels to the top of the parabola through them and their neighbours.

    Args:
        scores: float [H, W].
        row, column: int [N] of local maxima. Elsewhere, and where the neighbours are as high, there is no step.
    """
    padded = np.pad(scores.astype(np.float64), 1, mode="edge")
    at = lambda dy, dx: padded[row + 1 + dy, column + 1 + dx]  # noqa: E731
    out = []
    for before, after in ((at(0, -1), at(0, 1)), (at(-1, 0), at(1, 0))):
        bend = before - 2 * at(0, 0) + after
        top = (at(0, 0) >= before) & (at(0, 0) >= after) & (bend < 0)
        out.append(np.where(top, (before - after) / (2 * np.where(top, bend, 1)), 0))
    return np.clip(np.stack(out, 1), -_LARGEST_OFFSET_PX, _LARGEST_OFFSET_PX)


def blob_scores(grey: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """float32 [H, W], the contrast (0..1) of SIFT's strongest blob in each pixel, 0 where there is none, and float64
    [H, W, 2], its (x, y) offset from the pixel's centre (Lowe, IJCV 60, 2004, sections 3 and 4).

    Args:
        threshold: fainter blobs are left out.
    """
    scores, offsets = np.zeros(grey.shape, np.float32), np.zeros((*grey.shape, 2))
    if min(grey.shape) < MIN_SIDE_PX:
        return scores, offsets
    # OpenCV divides its threshold by the layers. Precise upscaling: without it blobs sit 1/4 px to the lower right.
    blobs = cv2.SIFT_create(0, _OCTAVE_LAYERS, threshold * _OCTAVE_LAYERS, 10.0, 1.6, True).detect(grey, None)
    if not blobs:
        return scores, offsets
    xy = np.array([b.pt for b in blobs], np.float64)  # (0, 0) is the first pixel's centre
    response = np.array([b.response for b in blobs], np.float32)
    pixel = np.clip(np.rint(xy).astype(int), 0, np.array(grey.shape[::-1]) - 1)
    order = np.lexsort((xy[:, 0], xy[:, 1], [b.size for b in blobs], -response))
    _, strongest = np.unique(pixel[order] @ (1, grey.shape[1]), return_index=True)
    chosen = order[strongest]
    column, row = pixel[chosen].T
    scores[row, column] = np.minimum(response[chosen], 1)
    offsets[row, column] = np.clip(xy[chosen] - pixel[chosen], -_LARGEST_OFFSET_PX, _LARGEST_OFFSET_PX)
    return scores, offsets

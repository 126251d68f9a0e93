# SPDX-License-Identifier: Apache-2.0
"""What every classical extractor does before and after its own work: check, shrink, mask, sort, cut."""

from __future__ import annotations

import numpy as np

from medrecon.errors import InputError
from medrecon.images import cv2, to_grey
from medrecon.types import Features

# Below this no octave of any of the detectors fits.
MIN_SIDE_PX = 16


def prepare(
    image: np.ndarray, mask: np.ndarray | None, max_size_px: int | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Grey working image, working mask and the scale back to the original.

    Args:
        image: uint8 [H, W] or [H, W, 3] RGB.
        mask: bool [H, W], True = use, or None.
        max_size_px: longest side to work at; None works at full size.

    Returns:
        grey uint8 [h, w], mask bool [h, w] or None, factors float64 (x, y): original pixels per working pixel.

    Raises:
        InputError: wrong dtype or shape.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise InputError("an extractor takes uint8 images [H, W] or [H, W, 3]", "scale the image to 8 bit first")
    if image.ndim == 3 and image.shape[2] != 3:
        raise InputError(f"an extractor takes images of 1 or 3 channels, got {image.shape[2]}")
    h, w = image.shape[:2]
    if mask is not None:
        if mask.shape != (h, w):
            raise InputError(f"the mask is {mask.shape[1]}x{mask.shape[0]} but the image {w}x{h}")
        mask = mask.astype(bool)
    grey = np.ascontiguousarray(to_grey(image))
    if max_size_px is None or max(h, w) <= max_size_px:
        return grey, mask, np.ones(2)
    f = max_size_px / max(h, w)
    size = max(1, round(w * f)), max(1, round(h * f))
    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    if mask is not None:
        mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    return grey, mask, np.array([w / size[0], h / size[1]])


def too_plain(grey: np.ndarray, mask: np.ndarray | None) -> bool:
    """True where nothing can be detected: tiny or constant images, masks that hide everything."""
    return min(grey.shape) < MIN_SIDE_PX or int(grey.min()) == int(grey.max()) or (mask is not None and not mask.any())


def choose(xy: np.ndarray, scores: np.ndarray, ties: np.ndarray, mask: np.ndarray | None, limit: int) -> np.ndarray:
    """Indices int64 of the best ``limit`` keypoints inside the mask, best first.

    Args:
        xy: float [N, 2] working pixels, (0.5, 0.5) the centre of the first.
        scores: float [N].
        ties: float [N, K]: what decides between equal scores, after y and x; makes the order unique.
        mask: bool [h, w] or None. A keypoint belongs to the pixel it lies in.
    """
    keep = np.arange(len(xy))
    if mask is not None and len(xy):
        column = np.clip(np.floor(xy[:, 0]).astype(int), 0, mask.shape[1] - 1)
        row = np.clip(np.floor(xy[:, 1]).astype(int), 0, mask.shape[0] - 1)
        keep = keep[mask[row, column]]
    keys = [*ties[keep].T[::-1], xy[keep, 0], xy[keep, 1], -scores[keep]]
    return keep[np.lexsort(keys)][:limit]


def within(xy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [N, 2] clipped into a width x height image (sub-pixel refinement may step over the edge by a hair)."""
    return np.clip(xy, 0, np.array(size)).astype(np.float32)


def outside_mask(xy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """bool [N]: keypoints (original pixels) whose pixel is hidden by ``mask`` bool [H, W]."""
    column = np.clip(np.floor(xy[:, 0]).astype(int), 0, mask.shape[1] - 1)
    row = np.clip(np.floor(xy[:, 1]).astype(int), 0, mask.shape[0] - 1)
    return ~mask[row, column]


def empty(size: tuple[int, int], extractor: str, metric: str, width: int) -> Features:
    """No keypoints, with the right shapes: ``width`` is the descriptor length."""
    none = np.zeros(0, np.float32)
    descriptors = np.zeros((0, width), np.uint8 if metric == "hamming" else np.float32)
    return Features(np.zeros((0, 2), np.float32), none, descriptors, metric, size, extractor, none.copy(), none.copy())


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """float32 [N, D] with every row of length 1; zero rows stay zero."""
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)

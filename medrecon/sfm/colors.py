# SPDX-License-Identifier: Apache-2.0
"""Colours of the sparse points, from the pictures that see them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medrecon.types import Features, FrameSet, SparseModel


def point_colors(frames: FrameSet, features: Mapping[int, Features], model: SparseModel) -> np.ndarray:
    """uint8 [P, 3]: mean RGB of the pixels at the point's observations."""
    n = len(model.points)
    total, count = np.zeros((n, 3)), np.zeros(n)
    point_of = np.repeat(np.arange(n), np.diff(model.track_offsets))
    by_id = frames.by_id()
    for frame_id in np.unique(model.track_frame_ids).tolist():
        here = model.track_frame_ids == frame_id
        image = by_id[frame_id].load_image()
        # Pixel (i, j) covers [j, j + 1) x [i, i + 1), so the floor of a coordinate is its pixel.
        x, y = np.floor(features[frame_id].xy[model.track_keypoint_idx[here]]).astype(int).T
        pixels = image[np.clip(y, 0, image.shape[0] - 1), np.clip(x, 0, image.shape[1] - 1)]
        np.add.at(total, point_of[here], pixels)
        np.add.at(count, point_of[here], 1)
    return np.round(total / np.maximum(count, 1)[:, None]).astype(np.uint8)

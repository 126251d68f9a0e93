# SPDX-License-Identifier: Apache-2.0
"""From SuperPoint's two maps to keypoints and their descriptors.

The paper leaves open how maxima are suppressed and how descriptors are read between cells; here both are done as
SuperGlue (Sarlin et al., CVPR 2020) was trained with them, since its weights depend on it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.features.superpoint_network import CELL_PX


def score_map(logits: Tensor) -> Tensor:
    """logits [65, h, w] -> float32 [8 h, 8 w]: how probable a keypoint is in each pixel (arXiv 1712.07629, 3.2)."""
    _, h, w = logits.shape
    cells = logits.float().permute(1, 2, 0).softmax(-1)[..., :-1]
    return cells.reshape(h, w, CELL_PX, CELL_PX).transpose(1, 2).reshape(h * CELL_PX, w * CELL_PX)


def local_maxima(scores: Tensor, radius: int) -> Tensor:
    """bool [..., H, W]: pixels kept by non-maximum suppression over squares of 2 radius + 1 pixels.

    A pixel that equals the maximum of its square is kept and hides the square. What is left is searched again, twice: a
    pixel may be the greatest there whose stronger neighbour was itself hidden. Of equal scores both are kept.

    Args:
        scores: float [..., H, W], none negative.
    """
    kept = scores == window_max(scores, radius)
    for _ in range(2):
        hidden = window_max(kept.to(torch.uint8), radius).bool()
        free = scores.masked_fill(hidden, 0)
        kept = kept | ((free == window_max(free, radius)) & ~hidden)
    return kept


def window_max(x: Tensor, radius: int) -> Tensor:
    """Maximum of [..., H, W] over squares of 2 radius + 1 pixels, cut off at the border; no value may be negative.

    A maximum may count a value twice, so windows of 2, 4, 8... pixels are made of two halves, along one axis after the
    other: some 60 times faster than ``max_pool2d`` at radius 4, and the same to the bit.
    """
    width = 2 * radius + 1
    for axis, padding in ((-1, (radius, radius)), (-2, (0, 0, radius, radius))):
        x, covered = F.pad(x, padding), 1
        while covered < width:
            shift = min(covered, width - covered)
            n = x.shape[axis] - shift
            x = torch.maximum(x.narrow(axis, 0, n), x.narrow(axis, shift, n))
            covered += shift
    return x


def find_keypoints(scores: Tensor, radius: int, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows int64 [N], columns int64 [N] and scores float32 [N] of the local maxima above ``threshold``, row by row."""
    found = (local_maxima(scores, radius) & (scores > threshold)).nonzero()
    values = scores[found[:, 0], found[:, 1]]
    row, column = found.T.cpu().numpy()
    return row, column, values.cpu().numpy()


def subpixel_offsets(scores: Tensor, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Offsets float64 [N, 2] (x, y) px from each maximum to the centre of gravity of the scores around it.

    No point leaves its pixel, so that what a mask allowed stays allowed. The soft arg-max over 5 x 5 pixels of Jau et
    al., "Deep keypoint-based camera pose estimation with geometric constraints", IROS 2020, section III-A.

    Args:
        scores: float32 [H, W], probabilities.
        row, column: int [N] of the maxima.
    """
    reach = 2
    padded = F.pad(scores, (reach,) * 4).cpu().numpy().astype(np.float64)
    steps = np.arange(-reach, reach + 1)
    around = padded[(row[:, None] + steps + reach)[:, :, None], (column[:, None] + steps + reach)[:, None, :]]
    moments = np.stack([around.sum(1) @ steps, around.sum(2) @ steps], 1)
    return np.clip(moments / around.sum((1, 2))[:, None], -0.49, 0.49)


def sample_descriptors(
    cells: Tensor, row: np.ndarray, column: np.ndarray, grid: tuple[int, int], offset: tuple[int, int]
) -> np.ndarray:
    """Descriptors at points, bilinear between cells, of unit length.

    The released models stretch the grid a little: of n cells the first lies at pixel 3.5, where its centre is, but the
    last at 8 n - 1, not at its centre 8 n - 4.5. SuperGlue has learned with it, so it stays.

    Args:
        cells: float [D, h, w], the map or a part of it.
        row, column: [N] pixel indices in the whole image, whole or between pixels.
        grid: (rows, columns) of cells in the whole image.
        offset: (row, column) in it of the first cell in ``cells``.

    Returns:
        float32 [N, D].
    """
    size, h, w = cells.shape
    low, share = [], []
    for pixel, n, first in ((row, grid[0], offset[0]), (column, grid[1], offset[1])):
        half = (CELL_PX - 1) / 2
        position = (pixel - half) * (n - 1) / (CELL_PX * n - 1 - half) - first
        floor = np.floor(position)
        low.append(floor.astype(np.int64))
        share.append(position - floor)
    # Beyond the outermost cells they alone count: the length is set below.
    y = np.clip(np.stack([low[0], low[0] + 1], 1), 0, h - 1)
    x = np.clip(np.stack([low[1], low[1] + 1], 1), 0, w - 1)
    part_y, part_x = (np.stack([1 - s, s], 1) for s in share)
    index = (y[:, :, None] * w + x[:, None, :]).reshape(-1, 4)
    weight = (part_y[:, :, None] * part_x[:, None, :]).reshape(-1, 4).astype(np.float32)
    table = cells.float().permute(1, 2, 0).reshape(h * w, size)
    where = torch.from_numpy(index).to(table.device)
    mixed = F.embedding_bag(where, table, per_sample_weights=torch.from_numpy(weight).to(table.device), mode="sum")
    return F.normalize(mixed, dim=1).cpu().numpy()

# SPDX-License-Identifier: Apache-2.0
"""What extractors with a network share: picture to tensor and back, maxima, masks, order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.errors import StageError
from medrecon.features.prepare import choose, empty, outside_mask, prepare, too_plain, within
from medrecon.images import cv2
from medrecon.networks.device import place
from medrecon.types import Features
from medrecon_lightglue.options import LearnedExtractorConfig


class LearnedExtractor:
    """Base of extractors whose network gives a score map and describes the keypoints found in it.

    A subclass sets ``name`` and ``width`` (of a descriptor), and writes ``detect`` and ``describe``.
    """

    name: str
    width: int

    def __init__(self, config: LearnedExtractorConfig, network: torch.nn.Module):
        self.config = config
        self.device = place(self.name, config.device, "fp32")[0]
        self.network = network.eval().requires_grad_(False).to(self.device)

    def detect(self, picture: Tensor) -> tuple[Tensor, Tensor, Any]:
        """float [1, 3, H, W] in 0..1 -> xy float [N, 2] with whole numbers at pixel centres, scores [N], anything."""
        raise NotImplementedError

    def describe(self, found: Any, xy: Tensor) -> Tensor:
        """What ``detect`` gave last, and some of its keypoints -> unit descriptors [N, width]."""
        raise NotImplementedError

    def between_pixels(self, found: Any, xy: Tensor) -> Tensor | float:
        """What to add to keypoints given by ``detect``, px [N, 2]; for networks whose maxima are whole pixels."""
        return 0.0

    @torch.inference_mode()
    def extract(self, image: np.ndarray, mask: np.ndarray | None = None) -> Features:
        """image uint8 [H, W] or [H, W, 3] RGB; mask bool [H, W], True = use. Tiny or plain images give no keypoints.

        The network sees what the mask hides, so that its rim makes no corners; no keypoint is kept there.
        """
        grey, small_mask, factor = prepare(image, mask, self.config.max_size_px)
        size = image.shape[1], image.shape[0]
        if too_plain(grey, small_mask):
            return self._features(np.zeros((0, 2)), np.zeros(0), None, size)
        picture = _tensor(image, grey).to(self.device)
        xy_map, scores_map, found = self.detect(picture)
        # Whole numbers are centres to the networks; ours lie half a pixel further.
        xy, scores = xy_map.double().cpu().numpy() + 0.5, scores_map.float().cpu().numpy()
        if not (np.isfinite(xy).all() and np.isfinite(scores).all()):
            raise StageError(f"{self.name}: the network's output is not finite", "check the weights")
        edge = np.minimum(xy, np.array(grey.shape[::-1]) - xy).min(1, initial=np.inf)
        usable = edge >= self.config.border_px
        if mask is not None:  # shrinking may have blurred the rim: the mask at full size decides
            usable &= ~outside_mask(xy * factor, mask)
        rows = np.flatnonzero(usable)
        best = rows[choose(xy[rows], scores[rows], np.zeros((len(rows), 0)), small_mask, self.config.max_keypoints)]
        descriptors = None
        xy = xy[best]
        if len(best):
            chosen = xy_map[torch.from_numpy(best).to(self.device)]
            descriptors = self.describe(found, chosen).float().cpu().numpy()
            fine = xy + torch.as_tensor(self.between_pixels(found, chosen)).double().cpu().numpy()
            # A step within a pixel of a shrunk picture may enter a masked one of the original: it is not made.
            allowed = True if mask is None else ~outside_mask(fine * factor, mask)[:, None]
            xy = np.where(allowed, fine, xy)
        return self._features(xy * factor, scores[best], descriptors, size)

    def _features(self, xy: np.ndarray, scores: np.ndarray, descriptors, size: tuple[int, int]) -> Features:
        if descriptors is None:
            return empty(size, self.name, "l2", self.width)
        return Features(within(xy, size), scores.astype(np.float32), descriptors, "l2", size, self.name)


def _tensor(image: np.ndarray, grey: np.ndarray) -> Tensor:
    """float [1, 3, h, w] in 0..1 of the size of ``grey``, the working copy of ``image``."""
    if image.ndim == 2:
        image = np.repeat(grey[..., None], 3, 2)
    elif image.shape[:2] != grey.shape:
        image = cv2.resize(np.ascontiguousarray(image), grey.shape[::-1], interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255


def strict_maxima(score: Tensor, radius: int, threshold: float) -> Tensor:
    """Pixels int64 [N, 2] (column, row) that are greater than all others within the window, row by row.

    Plateaus have no maxima, nor has the border of ``radius`` pixels, where the window is cut off.

    Args:
        score: float [H, W].
        radius: the window has 2 radius + 1 pixels a side.
        threshold: maxima must be greater.
    """
    h, w = score.shape
    side = 2 * radius + 1
    if min(h, w) < side:
        return torch.zeros((0, 2), dtype=torch.int64, device=score.device)
    highest = F.max_pool2d(score[None, None], (1, side), stride=1)
    highest = F.max_pool2d(highest, (side, 1), stride=1)[0, 0]
    inner = score[radius : h - radius, radius : w - radius]
    row, column = ((inner == highest) & (inner > threshold)).nonzero().T + radius
    step = torch.arange(-radius, radius + 1, device=score.device)
    window = score[row[:, None, None] + step[:, None], column[:, None, None] + step]
    alone = (window == score[row, column][:, None, None]).sum((1, 2)) == 1
    return torch.stack([column, row], 1)[alone]


def peak_offsets(score: Tensor, pixels: Tensor) -> Tensor:
    """float [N, 2] (x, y) from maxima to the vertex of the parabola through them and their neighbours on each axis.

    No point leaves its pixel, so that what a mask allowed stays allowed.

    Args:
        score: float [H, W], logits: their peaks are nearer to parabolas than those of probabilities.
        pixels: int64 [N, 2] (column, row), none on the border of the map.
    """
    column, row = pixels.T
    middle = score[row, column]
    axes = ((score[row, column - 1], score[row, column + 1]), (score[row - 1, column], score[row + 1, column]))
    offsets = [(before - after) / (2 * (before - 2 * middle + after)).clamp(max=-1e-9) for before, after in axes]
    return torch.stack(offsets, 1).clamp(-0.49, 0.49)

# SPDX-License-Identifier: Apache-2.0
"""A fixed number of SuperPoint keypoints for each picture of a batch, found on the training device.

The same as ``medrecon.features.superpoint_keypoints`` finds in one picture, except that keypoints stay on pixels and
that their number does not depend on the picture: batches of equal size are what a matcher is trained on.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.features.superpoint_keypoints import local_maxima
from medrecon.features.superpoint_network import CELL_PX, SuperpointNetwork

NMS_RADIUS_PX = 4
BORDER_PX = 4


class Keypoints(NamedTuple):
    """K keypoints of each of B pictures, the best first.

    Attributes:
        xy: float32 [B, K, 2] px, centres of pixels.
        scores: float32 [B, K], how probable a keypoint is there.
        descriptors: float32 [B, K, D] of unit length.
        valid: bool [B, K]; False where the mask had no pixel left: a random place off the object, to be ignored.
    """

    xy: Tensor
    scores: Tensor
    descriptors: Tensor
    valid: Tensor


@torch.no_grad()
def find_keypoints(
    network: SuperpointNetwork,
    images: Tensor,
    masks: Tensor,
    count: int,
    generator: torch.Generator,
    threshold: float = 0.0,
    nms_radius_px: int = NMS_RADIUS_PX,
) -> Keypoints:
    """The strongest ``count`` local maxima above ``threshold`` inside the mask; where there are fewer, random pixels.

    Random pixels of the mask fill up as in the training of SuperGlue (Sarlin et al., CVPR 2020, appendix), so that
    every picture gives as many tokens; they have the scores and descriptors of their places.

    Args:
        network: frozen; runs as the autocast around it says, on a GPU always in half precision: float16, which is what
            the extractor takes and moves fewer keypoints than bfloat16.
        images: float32 [B, 1, H, W] in 0..1; H and W at least 2 cells of 8 px.
        masks: bool [B, H, W], True = keypoints allowed.
        count: at most the number of pixels in whole cells.
        generator: of the random pixels; on the images' device.
    """
    half = torch.autocast("cuda", torch.float16) if images.is_cuda else nullcontext()
    with half:
        logits, cells = network(images.contiguous(memory_format=torch.channels_last))
    probability = score_maps(logits)
    picked = _pick(probability, masks, count, generator, threshold, nms_radius_px)
    width = probability.shape[2]
    row, column = picked // width, picked % width
    scores = probability.flatten(1).gather(1, picked)
    valid = masks[:, : probability.shape[1], :width].flatten(1).gather(1, picked)
    xy = torch.stack([column, row], 2) + 0.5
    return Keypoints(xy, scores, sample_descriptors(cells, row, column), valid)


def score_maps(logits: Tensor) -> Tensor:
    """logits [B, 65, h, w] -> float32 [B, 8 h, 8 w]: how probable a keypoint is in each pixel."""
    return F.pixel_shuffle(logits.float().softmax(1)[:, :-1], CELL_PX)[:, 0]


def sample_descriptors(cells: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Descriptors at pixels, bilinear between cells, on the grid that ``superpoint_keypoints`` describes.

    Args:
        cells: float [B, D, h, w]; h and w at least 2.
        row, column: int [B, K].

    Returns:
        float32 [B, K, D] of unit length.
    """
    half = (CELL_PX - 1) / 2
    # grid_sample's -1 and 1 are the first and last cell: pixel 3.5 and 8 n - 1 here.
    x, y = (
        (pixel - half) * 2 / (CELL_PX * n - 1 - half) - 1
        for pixel, n in ((column, cells.shape[3]), (row, cells.shape[2]))
    )
    at = torch.stack([x, y], 2)[:, :, None].float()
    mixed = F.grid_sample(cells.float(), at, padding_mode="border", align_corners=True)[..., 0]
    return F.normalize(mixed, dim=1).transpose(1, 2)


def _pick(
    probability: Tensor, masks: Tensor, count: int, generator: torch.Generator, threshold: float, radius: int
) -> Tensor:
    """int64 [B, count]: flat indices into the score maps, the best first."""
    _, height, width = probability.shape
    inner = torch.zeros((height, width), dtype=torch.bool, device=probability.device)
    inner[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    allowed = masks[:, :height, :width]
    maxima = local_maxima(probability, radius) & (probability > threshold) & allowed & inner
    # Three storeys: off the object, a random pixel of it, a local maximum by its score.
    rank = torch.rand(probability.shape, generator=generator, device=probability.device)
    rank = torch.where(allowed & inner, rank, rank - 2)
    rank = torch.where(maxima, probability + 2, rank)
    return rank.flatten(1).topk(count).indices

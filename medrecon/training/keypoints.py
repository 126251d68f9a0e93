# SPDX-License-Identifier: Apache-2.0
"""A fixed number of keypoints with SuperPoint's descriptors for each picture of a batch, on the training device.

The same as the extractor finds in one picture with the detector "superpoint" or "shi-tomasi", except that keypoints
stay on pixels and that their number does not depend on the picture: batches of equal size are what a matcher is trained
on.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.features.superpoint_keypoints import local_maxima
from medrecon.features.superpoint_network import CELL_PX, SuperpointNetwork

DETECTORS = ("superpoint", "shi-tomasi")
NMS_RADIUS_PX = 4
BORDER_PX = 4


class Keypoints(NamedTuple):
    """K keypoints of each of B pictures, the best first.

    Attributes:
        xy: float32 [B, K, 2] px, centres of pixels.
        scores: float32 [B, K], how probable a keypoint is there, or ``corner_scores``.
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
    detector: str = "superpoint",
) -> Keypoints:
    """The strongest ``count`` local maxima inside the mask; where there are fewer, random pixels.

    Random pixels of the mask fill up as in the training of SuperGlue (Sarlin et al., CVPR 2020, appendix), so that
    every picture gives as many tokens; they have the scores and descriptors of their places.

    Args:
        network: frozen; runs as the autocast around it says, on a GPU always in half precision: float16, which is what
            the extractor takes and moves fewer keypoints than bfloat16.
        images: float32 [B, 1, H, W] in 0..1; H and W at least 2 cells of 8 px.
        masks: bool [B, H, W], True = keypoints allowed.
        count: at most the number of pixels in whole cells.
        generator: of the random pixels; on the images' device.
        detector: one of ``DETECTORS``; the descriptors are the network's in any case.
    """
    half = torch.autocast("cuda", torch.float16) if images.is_cuda else nullcontext()
    with half:
        encoded = network.encode(images.contiguous(memory_format=torch.channels_last))
        cells = network.describe(encoded)
        maps = score_maps(network.detect(encoded)) if detector == "superpoint" else None
    height, width = (CELL_PX * n for n in cells.shape[2:])
    maps = corner_scores(images)[:, :height, :width] if maps is None else maps
    picked = _pick(maps, masks[:, :height, :width], count, generator)
    row, column = picked // width, picked % width
    scores = maps.flatten(1).gather(1, picked)
    valid = masks[:, :height, :width].flatten(1).gather(1, picked)
    xy = torch.stack([column, row], 2) + 0.5
    return Keypoints(xy, scores, sample_descriptors(cells, row, column), valid)


def score_maps(logits: Tensor) -> Tensor:
    """logits [B, 65, h, w] -> float32 [B, 8 h, 8 w]: how probable a keypoint is in each pixel."""
    return F.pixel_shuffle(logits.float().softmax(1)[:, :-1], CELL_PX)[:, 0]


def corner_scores(images: Tensor) -> Tensor:
    """images float [B, 1, H, W] in 0..1 -> float32 [B, H, W], as ``medrecon.features.classical_points.corner_scores``.

    The root of the lesser eigenvalue of the mean structure tensor in 3 x 3 px (Shi and Tomasi, "Good features to
    track", CVPR 1994, section 4), with Sobel's derivatives.
    """
    smooth, slope = images.new_tensor([1, 2, 1]) / 4, images.new_tensor([-1, 0, 1]) / 2
    with torch.autocast(images.device.type, enabled=False):
        kernels = torch.stack([smooth[:, None] * slope, slope[:, None] * smooth])[:, None].float()
        gx, gy = F.conv2d(F.pad(images.float(), (1, 1, 1, 1), mode="reflect"), kernels).unbind(1)
        products = torch.stack([gx * gx, gy * gy, gx * gy], 1)
        xx, yy, xy = F.avg_pool2d(F.pad(products, (1, 1, 1, 1), mode="reflect"), 3, 1).unbind(1)
    least = (xx + yy) / 2 - ((xx - yy).square() / 4 + xy.square()).sqrt()
    return least.clamp(0, 1).sqrt()


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


def _pick(maps: Tensor, masks: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """int64 [B, count]: flat indices into the score maps [B, H, W], the best first."""
    inner = torch.zeros_like(masks)
    inner[:, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    allowed = masks & inner
    maxima = local_maxima(maps, NMS_RADIUS_PX) & (maps > 0) & allowed
    # Three storeys: off the object, a random pixel of it, a local maximum by its score.
    rank = torch.rand(maps.shape, generator=generator, device=maps.device)
    rank = torch.where(allowed, rank, rank - 2)
    rank = torch.where(maxima, maps + 2, rank)
    return rank.flatten(1).topk(count).indices

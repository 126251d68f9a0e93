# SPDX-License-Identifier: Apache-2.0
"""Where the starting weights find keypoints again and again: homographic adaptation.

DeTone et al., "SuperPoint" (CVPRW 2018, arXiv 1712.07629), section 5: the network's probabilities under many random
homographies, carried back and averaged; maxima of the mean are the labels. Unlike there a label is not simply true: it
keeps its mean probability, down to very small ones. Where every weak keypoint is taught to be none, their order is
lost, and with it what a fixed number of keypoints repeats. Torch alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.features.superpoint_network import CELL_PX, SuperpointNetwork
from medrecon.training.adapt_views import look, random_crop
from medrecon.training.detector import window_max
from medrecon.training.keypoints import BORDER_PX, NMS_RADIUS_PX, score_maps
from medrecon.training.warp import inverse


@torch.no_grad()
def mean_probability(
    network: SuperpointNetwork, picture: Tensor, mask: Tensor, warps: int, generator: torch.Generator, half: bool
) -> Tensor:
    """float32 [H, W]: mean probability of a keypoint over the picture itself and ``warps`` looks at it.

    Args:
        picture: float32 [1, H, W] in 0..1.
        mask: bool [H, W]; elsewhere the result is 0.
        generator: on the picture's device.
        half: bfloat16 for the convolutions.
    """
    _, height, width = picture.shape
    crop = height // CELL_PX * CELL_PX, width // CELL_PX * CELL_PX
    middle = torch.tensor([crop[1] / 2, crop[0] / 2], device=picture.device)
    everywhere = torch.ones_like(mask)
    total = torch.zeros((height, width), device=picture.device)
    count = torch.zeros_like(total)
    for k in range(warps + 1):
        there = torch.eye(3, device=picture.device) if k == 0 else random_crop(crop, middle, generator, 0.8)
        seen, valid = look(picture, everywhere, there, crop)
        with torch.autocast(picture.device.type, torch.bfloat16, enabled=half):
            logits, _ = network(seen[None].contiguous(memory_format=torch.channels_last))
        back = inverse(there)
        score, _ = look(score_maps(logits), everywhere[: crop[0], : crop[1]], back, (height, width))
        # At the rim of what a look shows there are false edges: those places do not count.
        inner = torch.zeros_like(valid)
        inner[CELL_PX:-CELL_PX, CELL_PX:-CELL_PX] = valid[CELL_PX:-CELL_PX, CELL_PX:-CELL_PX]
        _, known = look(valid[None].float(), inner, back, (height, width))
        total += score[0] * known
        count += known
    return total / count.clamp(min=1) * mask


def label_points(probability: Tensor, mask: Tensor, threshold: float, count: int) -> tuple[Tensor, Tensor]:
    """xy float32 [K, 2] px of the strongest ``count`` maxima above the threshold, best first, and strengths [K].

    A strength is the probability of the 3 x 3 pixels round the maximum: under random warps a keypoint moves by a pixel.
    """
    top = (probability == window_max(probability[None], NMS_RADIUS_PX)[0]) & (probability > threshold) & mask
    top[:BORDER_PX], top[-BORDER_PX:], top[:, :BORDER_PX], top[:, -BORDER_PX:] = False, False, False, False
    at = top.nonzero()
    best = at[probability[at[:, 0], at[:, 1]].argsort(descending=True, stable=True)[:count]]
    around = F.avg_pool2d(probability[None, None], 3, 1, 1)[0, 0] * 9
    return best.flip(1) + 0.5, around[best[:, 0], best[:, 1]].clamp(1e-6, 1 - 1e-6)

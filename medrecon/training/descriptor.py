# SPDX-License-Identifier: Apache-2.0
"""What the descriptor learns: of all points of the other picture, its own is the most alike.

The dual-softmax loss on a learned scale: InfoNCE (van den Oord et al., arXiv 1807.03748) in both directions, as LoFTR
(Sun et al., CVPR 2021, section 3.3) trains its matching.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.features.superpoint_network import CELL_PX
from medrecon.training.detector import read_at

_EPS = 1e-3  # a vector of no length has no direction to learn: without this its gradient would be without bounds


def draw_points(top: Tensor, mask: Tensor, corners: int, others: int, generator: torch.Generator) -> Tensor:
    """xy float32 [B, corners + others, 2] px: random peaks, then random pixels of the mask (repeated where too few).

    Args:
        top: bool [B, H, W], the peaks.
        mask: bool [B, H, W].
        generator: on the masks' device.
    """
    width = mask.shape[2]
    noise = torch.rand(mask.shape, generator=generator, device=mask.device)
    first = (noise + (top & mask)).flatten(1).topk(corners).indices
    second = (noise.roll(1, 0) + mask).flatten(1).topk(others).indices
    index = torch.cat([first, second], 1)
    return torch.stack([index % width, index // width], 2) + 0.5


def sample(cells: Tensor, xy: Tensor) -> Tensor:
    """Unit descriptors float32 [B, N, D] of a raw map [B, D, h, w] at xy [B, N, 2] px.

    Lengths are taken out of the cells first, then between them, on the stretched grid of
    ``superpoint_keypoints.sample_descriptors``: as they are read when pictures are matched.
    """
    cells = F.normalize(cells.float(), dim=1, eps=_EPS)
    half = (CELL_PX - 1) / 2
    count = xy.new_tensor([cells.shape[3], cells.shape[2]])
    position = (xy - 0.5 - half) * (count - 1) / (CELL_PX * count - 1 - half)
    return F.normalize(read_at(cells, position + 0.5), dim=1, eps=_EPS).transpose(1, 2)


def matching_loss(
    a: Tensor, b: Tensor, xy_a: Tensor, xy_b: Tensor, valid: Tensor, scale: Tensor, near_px: float = 4.0
) -> tuple[Tensor, Tensor]:
    """-log of the dual softmax at the true pairs, halved, and how often a's most alike is the true one.

    Args:
        a, b: unit descriptors [B, N, D], row i of b belonging to row i of a.
        xy_a, xy_b: [B, N, 2] px: another point nearer than ``near_px`` in either picture is no negative.
        valid: bool [B, N]: the pair exists; others are neither positives nor negatives.
        scale: of the similarities, > 0.
    """
    n = a.shape[1]
    same = torch.eye(n, dtype=torch.bool, device=a.device)
    near = (torch.cdist(xy_a, xy_a) < near_px) | (torch.cdist(xy_b, xy_b) < near_px)
    out = (near | ~valid[:, None, :] | ~valid[:, :, None]) & ~same
    logits = (scale * (a @ b.transpose(1, 2))).masked_fill(out, -1e4)
    forth, back = logits.log_softmax(2), logits.log_softmax(1)
    loss = -(forth.diagonal(dim1=1, dim2=2) + back.diagonal(dim1=1, dim2=2)) / 2
    weight = valid.float()
    total = weight.sum().clamp(min=1)
    right = (logits.argmax(2) == torch.arange(n, device=a.device)).float()
    return (loss * weight).sum() / total, (right * weight).sum().detach() / total

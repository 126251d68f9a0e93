# SPDX-License-Identifier: Apache-2.0
"""SuperPoint as one writes it down first: NCHW, float32, layer by layer, dense suppression. The peer for speed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.features.superpoint_network import SuperpointNetwork


def suppress(scores: Tensor, radius: int) -> Tensor:
    """float [1, H, W] with zeros where non-maximum suppression by ``max_pool2d`` removed a score."""

    def pooled(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2 * radius + 1, stride=1, padding=radius)

    kept = scores == pooled(scores)
    for _ in range(2):
        hidden = pooled(kept.float()) > 0
        free = torch.where(hidden, 0.0, scores)
        kept = kept | ((free == pooled(free)) & ~hidden)
    return torch.where(kept, scores, 0.0)


@torch.inference_mode()
def superpoint(
    network: SuperpointNetwork,
    image: Tensor,
    radius: int = 4,
    threshold: float = 0.005,
    border: int = 4,
    limit: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    """float32 [1, 1, H, W] in 0..1 -> pixel indices (x, y) int64 [N, 2], scores [N], descriptors [N, D]."""
    logits, descriptors = network(image)
    _, _, h, w = logits.shape
    scores = F.pixel_shuffle(logits.softmax(1)[:, :-1], 8)[0]
    scores = suppress(scores, radius)[0]
    inside = torch.zeros_like(scores, dtype=torch.bool)
    inside[border : 8 * h - border, border : 8 * w - border] = True
    yx = torch.nonzero((scores > threshold) & inside)
    values = scores[yx[:, 0], yx[:, 1]]
    if 0 <= limit < len(values):
        values, best = values.topk(limit)
        yx = yx[best]
    xy = yx.flip(1)
    # The grid spans from the centre of the first cell to the last pixel, as in the released model.
    place = (xy - 3.5) / (xy.new_tensor([8 * w, 8 * h]) - 4.5) * 2 - 1
    sampled = F.grid_sample(descriptors, place[None, None], align_corners=True)[0, :, 0]
    return xy, values, F.normalize(sampled, dim=0).T

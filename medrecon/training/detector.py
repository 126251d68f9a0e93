# SPDX-License-Identifier: Apache-2.0
"""What the detector learns: a blob response that both views of a pair agree on, then its maxima.

The response is the determinant of the Hessian (T. Lindeberg, "Feature detection with automatic scale selection", IJCV
30(2), 1998, section 5) at a scale of some pixels, in units of its surroundings. On tissue, which has few corners, its
maxima are found again more often under other lights and from other directions than corners are, or the points of SIFT
(``validation.classical`` measures it). As a dense target it tells every pixel of a cell what to say, where a label
tells one in 64: the position within the cell, which labels alone teach slowly, is learned first. Labels are then the
maxima of the same map. A map is made of both views of a pair (each warped into the other), so what only one light or
one direction shows counts less: the consensus of homographic adaptation (DeTone et al., arXiv 1712.07629, section 5)
over true 3-D.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.features.superpoint_network import CELL_PX

_LEAST = 0.1  # where nothing bends, a plateau of zeros would be all maxima
Carry = Callable[[Tensor], tuple[Tensor, Tensor]]


def blob_response(images: Tensor, scale_px: float = 2.5, around_px: float = 12.0, floor: float = 5e-3) -> Tensor:
    """sqrt(max(0, det Hessian)), scale-normalised, over its mean around: float32 [B, H, W], about 1 on the average.

    Dividing by the surroundings makes it independent of exposure and lets dim tissue have its keypoints too.

    Args:
        images: [B, 1, H, W] in 0..1.
        scale_px: standard deviation of the Gaussian under the second derivatives.
        around_px: of that of the surroundings.
        floor: added to the mean around: a response as weak as this is noise.
    """
    smooth = F.pad(blur(images.float(), scale_px), (1, 1, 1, 1), mode="replicate")
    here = smooth[:, 0, 1:-1, 1:-1]
    right, left, below, above = (
        smooth[:, 0, 1:-1, 2:],
        smooth[:, 0, 1:-1, :-2],
        smooth[:, 0, 2:, 1:-1],
        smooth[:, 0, :-2, 1:-1],
    )
    xx, yy = right + left - 2 * here, below + above - 2 * here
    xy = (smooth[:, 0, 2:, 2:] + smooth[:, 0, :-2, :-2] - smooth[:, 0, 2:, :-2] - smooth[:, 0, :-2, 2:]) / 4
    strength = scale_px**2 * torch.sqrt((xx * yy - xy * xy).clamp(min=0))
    return strength / (blur(strength[:, None], around_px)[:, 0] + floor)


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of every channel of [B, C, H, W], the border repeated."""
    reach = max(1, round(3 * sigma))
    steps = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).repeat(x.shape[1], 1, 1, 1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), kernel, groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), kernel.transpose(2, 3), groups=x.shape[1])


def pixel_centres(height: int, width: int, device: torch.device) -> Tensor:
    """float32 [H W, 2] (x, y) px, row by row."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    return torch.stack([x, y], 2).reshape(-1, 2)


def read_at(maps: Tensor, xy: Tensor) -> Tensor:
    """Bilinear values [B, C, N] of maps [B, C, H, W] at xy [B, N, 2] px (first pixel's centre at 0.5, 0.5)."""
    size = xy.new_tensor([maps.shape[3], maps.shape[2]])
    grid = (2 * xy / size - 1)[:, :, None]
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[..., 0]


def consensus(here: Tensor, there: Tensor, carry: Carry) -> Tensor:
    """Mean of a response and the other view's, warped; where the other does not see the place, this one alone.

    Args:
        here, there: [B, H, W].
        carry: xy [B, N, 2] px of ``here`` -> (xy in ``there``, visible bool [B, N]).
    """
    batch, height, width = here.shape
    xy, visible = carry(pixel_centres(height, width, here.device).expand(batch, -1, -1))
    other = read_at(there[:, None], xy.nan_to_num())[:, 0].view_as(here)
    return torch.where(visible.view_as(here), (here + other) / 2, here)


def window_max(x: Tensor, radius: int) -> Tensor:
    """Maximum of [B, H, W] over squares of 2 radius + 1 pixels, cut off at the border."""
    size = 2 * radius + 1
    x = F.max_pool2d(x[:, None], (1, size), 1, (0, radius))
    return F.max_pool2d(x, (size, 1), 1, (radius, 0))[:, 0]


def peaks(response: Tensor, mask: Tensor, radius: int = 4, border_px: int = 4) -> Tensor:
    """bool [B, H, W]: maxima of a response [B, H, W] over squares of 2 radius + 1 pixels, above a tenth of the average,
    inside the mask and off the border."""
    top = (response == window_max(response, radius)) & (response > _LEAST) & mask
    inner = torch.zeros_like(top)
    inner[:, border_px:-border_px, border_px:-border_px] = True
    return top & inner


def soft_labels(response: Tensor, top: Tensor, floor: float, softness: float, sigma_px: float) -> Tensor:
    """Target probabilities [B, 65, H / 8, W / 8] of the detector's classes, summing to 1.

    A peak of response z counts sigmoid((z - floor) / softness) and is spread by a Gaussian, so that a near miss is
    better than a far one and stronger blobs come first. The last class takes what the cell's peaks leave.

    Args:
        response: [B, H, W]; H, W multiples of 8.
        top: bool [B, H, W], the peaks.
    """
    strength = torch.sigmoid((response - floor) / softness) * top
    mass = blur(strength[:, None], sigma_px)
    cells = F.pixel_unshuffle(mass, CELL_PX)
    total = cells.sum(1, keepdim=True)
    cells = cells / total.clamp(min=1)
    return torch.cat([cells, (1 - total).clamp(min=0)], 1)


def label_loss(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Divergence KL(labels || softmax(logits)) [nat], mean over the cells that the mask touches.

    The cross-entropy less the labels' own entropy: the same gradient, and 0 is perfect.

    Args:
        logits, labels: [B, 65, h, w].
        mask: bool [B, 8 h, 8 w].
    """
    loss = F.kl_div(logits.float().log_softmax(1), labels, reduction="none").sum(1)
    return _mean(loss, F.max_pool2d(mask[:, None].float(), CELL_PX)[:, 0])


def response_loss(predicted: Tensor, response: Tensor, mask: Tensor) -> Tensor:
    """Squared error of a response [B, H, W] against the target, mean over the mask grown by some pixels.

    Not a robust loss: the target is near zero almost everywhere, and what minimises an absolute error is its median.
    """
    near = window_max(mask.float(), CELL_PX // 2)
    return _mean((predicted.float() - response).square(), near)


def within_cell_r2(predicted: Tensor, response: Tensor, mask: Tensor) -> Tensor:
    """Share of the target's variance within cells of 8 px that the prediction explains (1: all; 0: cells' means only).

    Args:
        predicted, response: [B, H, W].
        mask: bool [B, H, W]; cells wholly inside count.
    """
    p, r = (F.pixel_unshuffle(m[:, None].float(), CELL_PX) for m in (predicted, response))
    p, r = p - p.mean(1, keepdim=True), r - r.mean(1, keepdim=True)
    whole = F.pixel_unshuffle(mask[:, None].float(), CELL_PX).amin(1, keepdim=True)
    return 1 - ((p - r).square() * whole).sum() / (r.square() * whole).sum().clamp(min=1e-9)


def _mean(x: Tensor, weight: Tensor) -> Tensor:
    return (x * weight).sum() / weight.sum().clamp(min=1)

# SPDX-License-Identifier: Apache-2.0
"""The network of ALIKED, named as its checkpoints are. Zhao et al.: "ALIKED: A lighter keypoint and descriptor
extraction network via deformable transformation", IEEE TIM 72, 2023, arXiv 2304.03608."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 0.1  # of the soft-argmax, in units of the score map


def sample(maps: Tensor, xy: Tensor) -> Tensor:
    """Maps [C, H, W] read bilinearly at xy [..., 2], whole numbers being pixel centres, 0 beyond: [C, ...]."""
    size = torch.tensor([maps.shape[2], maps.shape[1]], device=xy.device, dtype=xy.dtype)
    grid = ((2 * xy + 1) / size - 1).reshape(1, 1, -1, 2)
    return F.grid_sample(maps[None], grid, align_corners=False).reshape(maps.shape[0], *xy.shape[:-1])


class _Deformable(nn.Module):
    """3x3 convolution that reads at learned offsets (Dai et al., ICCV 2017, eq. 2)."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.offset_conv = nn.Conv2d(n_in, 18, 3, padding=1)
        self.regular_conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        reach = max(h, w) / 4
        dy, dx = self.offset_conv(x)[0].clamp(-reach, reach).reshape(9, 2, h, w).unbind(1)
        near = torch.arange(-1, 2, device=x.device)
        y = torch.arange(h, device=x.device)[:, None] + near.repeat_interleave(3)[:, None, None] + dy
        x_ = torch.arange(w, device=x.device) + near.repeat(3)[:, None, None] + dx
        read = sample(x[0], torch.stack([x_, y], -1))
        return torch.einsum("ckhw,ock->ohw", read, self.regular_conv.weight.flatten(2))[None]


class _Block(nn.Module):
    """Two convolutions with batch norm and SELU, with a shortcut from the second block on."""

    def __init__(self, n_in: int, n_out: int, deformable: bool, shortcut: bool):
        super().__init__()
        conv = _Deformable if deformable else lambda a, b: nn.Conv2d(a, b, 3, padding=1, bias=False)
        self.conv1, self.bn1 = conv(n_in, n_out), nn.BatchNorm2d(n_out)
        self.conv2, self.bn2 = conv(n_out, n_out), nn.BatchNorm2d(n_out)
        if shortcut:
            self.downsample = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.selu(self.bn1(self.conv1(x)))))
        return F.selu(out + self.downsample(x) if hasattr(self, "downsample") else out)


class _DescriptorHead(nn.Module):
    """Sparse deformable descriptor head (section III-C): where to look is learned per keypoint."""

    def __init__(self, dim: int, n_positions: int):
        super().__init__()
        self.offset_conv = nn.Sequential(
            nn.Conv2d(dim, 2 * n_positions, 3), nn.SELU(), nn.Conv2d(2 * n_positions, 2 * n_positions, 1)
        )
        self.sf_conv = nn.Conv2d(dim, dim, 1, bias=False)
        self.agg_weights = nn.Parameter(torch.empty(n_positions, dim, dim))
        nn.init.xavier_uniform_(self.agg_weights)


class Pyramid:
    """The dense feature map of ALIKED, evaluated only where it is read.

    The map is the channels of four scales, each enlarged bilinearly to full size, of unit length at every pixel.

    Attributes:
        levels: [C, h, w] per scale, of the padded picture.
        shift: (left, top) padding, px.
        size: (width, height) of the picture without padding, px.
    """

    def __init__(self, levels: list[Tensor], shift: tuple[int, int], size: tuple[int, int]):
        self.levels, self.shift, self.size = levels, shift, size

    def at_pixels(self, xy: Tensor) -> Tensor:
        """float [N, C] at pixels int64 [N, 2] of the picture, 0 outside of it."""
        limit = torch.tensor(self.size, device=xy.device) - 1
        inside = ((xy >= 0) & (xy <= limit)).all(-1, keepdim=True)
        padded = xy.clamp(min=0).minimum(limit) + torch.tensor(self.shift, device=xy.device)
        full = self.levels[0].shape
        parts = []
        for level in self.levels:
            # Corners are aligned: first and last pixels of all scales lie on each other.
            factor = [(small - 1) / max(large - 1, 1) for small, large in zip(level.shape[:0:-1], full[:0:-1])]
            parts.append(sample(level, padded * torch.tensor(factor, device=xy.device, dtype=level.dtype)).T)
        return F.normalize(torch.cat(parts, 1), dim=1) * inside

    def at(self, xy: Tensor) -> Tensor:
        """float [N, C] at any positions float [N, 2], whole numbers being pixel centres: bilinear, 0 beyond."""
        low = xy.floor()
        share = xy - low
        corners = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=xy.device)
        pixels = low.long()[:, None] + corners
        weight = torch.where(corners.bool(), share[:, None], 1 - share[:, None]).prod(-1)
        read = self.at_pixels(pixels.reshape(-1, 2)).reshape(len(xy), 4, -1)
        return torch.einsum("nkc,nk->nc", read, weight)


class AlikedNetwork(nn.Module):
    """ALIKED; its widths are those of the checkpoint.

    Args:
        channels: of the four blocks.
        dim: length of a descriptor.
        n_positions: sampling positions per descriptor.
    """

    multiple = 32

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 128), dim: int = 128, n_positions: int = 16):
        super().__init__()
        c1, c2, c3, c4 = channels
        self.block1 = _Block(3, c1, deformable=False, shortcut=False)
        self.block2 = _Block(c1, c2, deformable=False, shortcut=True)
        self.block3 = _Block(c2, c3, deformable=True, shortcut=True)
        self.block4 = _Block(c3, c4, deformable=True, shortcut=True)
        for i, c in enumerate(channels, 1):
            setattr(self, f"conv{i}", nn.Conv2d(c, dim // 4, 1, bias=False))
        conv = lambda a, b, size: nn.Conv2d(a, b, size, padding=size // 2, bias=False)
        self.score_head = nn.Sequential(
            conv(dim, 8, 1), nn.SELU(), conv(8, 4, 3), nn.SELU(), conv(4, 4, 3), nn.SELU(), conv(4, 1, 3)
        )
        self.desc_head = _DescriptorHead(dim, n_positions)

    @classmethod
    def like(cls, state: dict[str, Tensor]) -> "AlikedNetwork":
        """Of the widths of a checkpoint."""
        positions, dim = state["desc_head.agg_weights"].shape[:2]
        return cls(tuple(state[f"conv{i}.weight"].shape[1] for i in range(1, 5)), dim, positions)

    @property
    def dim(self) -> int:
        return self.desc_head.agg_weights.shape[1]

    def forward(self, picture: Tensor) -> tuple[Tensor, Pyramid]:
        """picture float [1, 3, H, W] in 0..1 -> score map [H, W] in 0..1, features."""
        h, w = picture.shape[2:]
        right, below = -w % self.multiple, -h % self.multiple
        left, top = right // 2, below // 2
        x = F.pad(picture, (left, right - left, top, below - top), mode="replicate")
        levels, full = [], x.shape[2:]
        for i, pool in enumerate((1, 2, 4, 4), 1):
            x = getattr(self, f"block{i}")(F.avg_pool2d(x, pool) if pool > 1 else x)
            levels.append(F.selu(getattr(self, f"conv{i}")(x)))
        # The first layer of the score head is linear, so it may come before the enlargement: 8 channels instead of 128.
        first, *rest = self.score_head
        parts = zip(levels, first.weight.split(self.dim // 4, 1))
        enlarge = lambda t: F.interpolate(t, full, mode="bilinear", align_corners=True)
        score = sum(enlarge(F.conv2d(level, weight)) for level, weight in parts)
        for layer in rest:
            score = layer(score)
        score = torch.sigmoid(score)[0, 0, top : top + h, left : left + w]
        return score, Pyramid([level[0] for level in levels], (left, top), (w, h))

    def describe(self, features: Pyramid, xy: Tensor) -> Tensor:
        """Descriptors [N, dim] of unit length at xy float [N, 2], whole numbers being pixel centres."""
        head = self.desc_head
        w, h = features.size
        corner = (xy.floor() - 1).long().clamp(min=0)
        corner = corner.minimum(torch.tensor([max(w - 4, 0), max(h - 4, 0)], device=xy.device))
        step = torch.arange(3, device=xy.device)
        around = torch.stack([step.repeat(3), step.repeat_interleave(3)], -1)
        near = features.at_pixels((corner[:, None] + around).reshape(-1, 2))
        patch = near.reshape(len(xy), 3, 3, self.dim).permute(0, 3, 1, 2)
        reach = max(h, w) / 4
        offset = head.offset_conv(patch).clamp(-reach, reach).reshape(len(xy), 2, -1).transpose(1, 2)
        read = features.at((xy[:, None] + offset).reshape(-1, 2)).reshape(len(xy), -1, self.dim)
        read = F.selu(F.linear(read, head.sf_conv.weight.flatten(1)))
        return F.normalize(torch.einsum("npc,pcd->nd", read, head.agg_weights), dim=1)


def refine(score: Tensor, pixels: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Soft-argmax about maxima of a score map (Zhao et al., "ALIKE", 2022, eq. 3 to 5).

    Args:
        score: [H, W].
        pixels: int64 [N, 2] (column, row), at least ``radius`` from the edge.
        radius: of the window, px.

    Returns:
        xy float [N, 2], whole numbers being pixel centres, and the scores there [N].
    """
    side = torch.arange(-radius, radius + 1, device=score.device)
    step = torch.stack([side.repeat(len(side)), side.repeat_interleave(len(side))], -1)
    around = pixels[:, None] + step
    window = score[around[..., 1], around[..., 0]]
    weight = torch.softmax(window / TEMPERATURE, 1)
    xy = pixels + weight @ step.to(score.dtype)
    return xy, sample(score[None], xy)[0]

# SPDX-License-Identifier: Apache-2.0
"""Pairs of pictures of a flat scene under two known homographies: the simplest source with exact correspondences."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def scene(seed: int, size: int = 160) -> torch.Tensor:
    """float32 [1, 1, size, size] in 0..1: rectangles of random grey over one another."""
    g = torch.Generator().manual_seed(seed)
    image = torch.full((size, size), 0.5)
    for _ in range(60):
        x, y, w, h = (torch.rand(4, generator=g) * torch.tensor([size, size, size / 4, size / 4])).int().tolist()
        image[y : y + h + 4, x : x + w + 4] = float(torch.rand(1, generator=g))
    return image[None, None]


def homographies(batch: int, size: tuple[int, int], scene_size: int, generator: torch.Generator) -> torch.Tensor:
    """float32 [B, 3, 3]: pixels of the picture -> pixels of the scene; turned, scaled, a little tilted."""
    height, width = size
    angle, zoom, tilt = torch.rand(3, batch, generator=generator) - 0.5
    c, s = torch.cos(angle), torch.sin(angle)
    z = torch.exp(0.5 * zoom) * 0.7 * scene_size / max(size)
    zero, one = torch.zeros(batch), torch.ones(batch)
    turn = torch.stack([z * c, -z * s, zero, z * s, z * c, zero, zero, zero, one], 1).view(-1, 3, 3)
    turn[:, :2, 2] = scene_size / 2 + (torch.rand(batch, 2, generator=generator) - 0.5) * 0.1 * scene_size
    turn[:, 2, 0] = tilt * 0.001
    centre = torch.tensor([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    return turn @ centre


def apply(h: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    """h [B, 3, 3] on xy [B, N, 2]."""
    out = torch.cat([xy, torch.ones_like(xy[..., :1])], 2) @ h.transpose(1, 2)
    return out[..., :2] / out[..., 2:]


def draw_flat_pairs(scenes: torch.Tensor, batch: int, size: tuple[int, int], seed: int) -> SimpleNamespace:
    """Like ``pairs.PairBatch``: images, masks, and the two ways between them."""
    g = torch.Generator().manual_seed(seed)
    chosen = scenes[torch.randint(len(scenes), (batch,), generator=g)]
    ways = [homographies(batch, size, scenes.shape[-1], g) for _ in range(2)]
    ys, xs = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    grid = torch.stack([xs, ys], 2).reshape(1, -1, 2).expand(batch, -1, -1)
    images, masks = [], []
    for h in ways:
        at = (2 * apply(h, grid) / scenes.shape[-1] - 1).view(batch, *size, 2)
        image = F.grid_sample(chosen, at, padding_mode="zeros", align_corners=False)
        gain, noise = torch.rand(batch, 1, 1, 1, generator=g) * 0.6 + 0.6, torch.randn(image.shape, generator=g)
        images.append((image * gain + 0.01 * noise).clamp(0, 1))
        masks.append((at.abs() < 0.98).all(3))

    def carry(there, back, mask):
        def go(xy):
            moved = apply(torch.linalg.inv(back) @ there, xy)
            index = moved.floor().long()
            inside = ((index >= 0) & (index < torch.tensor([size[1], size[0]]))).all(2)
            flat = (index[..., 1].clamp(0, size[0] - 1) * size[1] + index[..., 0].clamp(0, size[1] - 1)).flatten(1)
            return moved, inside & mask.flatten(1).gather(1, flat)

        return go

    return SimpleNamespace(
        image_a=images[0],
        image_b=images[1],
        mask_a=masks[0],
        mask_b=masks[1],
        a_to_b=carry(ways[0], ways[1], masks[1]),
        b_to_a=carry(ways[1], ways[0], masks[0]),
        kind=torch.zeros(batch, dtype=torch.int64),
        h_b_from_a=torch.linalg.inv(ways[1]) @ ways[0],
    )

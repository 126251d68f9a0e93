# SPDX-License-Identifier: Apache-2.0
"""Oblique slices of a volume, or the same ones of several volumes that lie upon each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.training.opacity import draw_window
from medrecon.training.raycast import sample_volume
from medrecon.training.shards import Shard

_AIR = 12  # byte value above which there is a body
_TRIES = 6  # slices looked at per slice wanted


def draw_slices(
    tied: list[Shard], n: int, size: tuple[int, int], device: torch.device, draw: torch.Generator
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Up to ``n`` slices, half of them nearly along the axes, each of each volume under a window of its own.

    Args:
        tied: volumes with the same grid in the same frame; usually one.
        size: (width, height) in px.
        draw: a generator of the CPU.

    Returns:
        For every volume the slices, uint8 [H, W] on ``device``, and where there is something to see, bool [H, W].
    """
    pictures: list[list[Tensor]] = [[] for _ in tied]
    solids: list[list[Tensor]] = [[] for _ in tied]
    if n == 0:
        return pictures, solids
    w, h = size
    volumes = [torch.from_numpy(shard.volume).to(device).float()[None, None] for shard in tied]
    spacing, shape = torch.tensor(tied[0].spacing_mm), torch.tensor(tied[0].volume.shape)
    for _ in range(_TRIES * n):
        if len(pictures[0]) == n:
            break
        turn = _slice_axes(draw)
        centre = (0.2 + 0.6 * torch.rand(3, generator=draw)) * shape * spacing
        extent = float((shape * spacing).median())
        step = extent / h * (0.45 + 0.75 * torch.rand(1, generator=draw).item())
        y, x = torch.meshgrid(torch.arange(h) + 0.5 - h / 2, torch.arange(w) + 0.5 - w / 2, indexing="ij")
        points = (centre + step * (x[..., None] * turn[0] + y[..., None] * turn[1])) / spacing
        within = ((points >= 0) & (points <= shape - 1)).all(-1).to(device)
        points = points.to(device).view(h * w, 1, 3)
        windows = [draw_window(shard, draw) for shard in tied]
        cuts = [_cut(volume, points, within, window) for volume, window in zip(volumes, windows)]
        if all(cut is not None for cut in cuts):
            for i, (picture, solid) in enumerate(cuts):
                pictures[i].append(picture)
                solids[i].append(solid)
    return pictures, solids


def _cut(volume: Tensor, points: Tensor, within: Tensor, window: tuple[float, float]) -> tuple[Tensor, Tensor] | None:
    """Picture and where there is something to see; None where that is too little."""
    h, w = within.shape
    low, high = window
    values = sample_volume(volume, points).view(h, w)
    solid = (sample_volume((volume > _AIR).float(), points).view(h, w) > 0.5) & within
    if solid.float().mean() < 0.3:
        return None
    solid = F.max_pool2d(solid[None].float(), 7, 1, 3)[0] > 0  # outlines belong to what they surround
    picture = (((values - low) / (high - low)).clamp(0, 1) * within * 255).round().to(torch.uint8)
    seen = picture[solid].float()
    if seen.std() < 20 or ((seen < 3) | (seen > 252)).float().mean() > 0.5:  # a window that shows nothing
        return None
    return picture, solid


def _slice_axes(draw: torch.Generator) -> Tensor:
    """float32 [3, 3], rows: where the picture's x and y and its normal point in the world; y runs towards inferior."""
    basis = torch.linalg.qr(torch.randn(3, 3, generator=draw)).Q
    if torch.rand(1, generator=draw).item() < 0.5:
        standard = (
            ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
            ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
            ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
        )
        chosen = torch.tensor(standard[int(torch.randint(3, (1,), generator=draw))], dtype=torch.float32)
        basis = torch.linalg.qr((chosen + 0.08 * torch.randn(3, 3, generator=draw)).T)
        basis = (basis.Q * torch.sign(basis.R.diagonal())).T
    return basis

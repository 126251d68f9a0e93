# SPDX-License-Identifier: Apache-2.0
"""Where in the cube round a scene there may be matter, one bit per cell, as `medrecon.ops.march_rays` wants it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from medrecon.radiance.contraction import HALF, contract
from medrecon.radiance.scene import Scene


class CubeOccupancy(nn.Module):
    """Cells that the pictures show to be empty (``scene.occupied``) never come back; the others follow a decaying
    maximum of the density found in them (instant-ngp, Mueller et al. 2022, appendix E.2).

    The cube is [-1, 1]^3 of the field frame; for an unbounded scene [-2, 2]^3, which holds the contracted space.

    Args:
        scene: gives bounds and known emptiness.
        cells: along each axis of the cube.
        threshold: a cell is empty when a ray crossing it would lose less than this share of its light.
    """

    DECAY = 0.8

    def __init__(self, scene: Scene, cells: int, threshold: float):
        super().__init__()
        self.cells = cells
        self.contracted, self.half = scene.unbounded, HALF if scene.unbounded else 1.0
        self.limit = -math.log1p(-threshold) * cells / (2 * self.half)  # density
        known = torch.from_numpy(_known(scene, cells))
        self.register_buffer("candidates", known.nonzero().squeeze(1).to(torch.int32))
        self.register_buffer("density", torch.full((len(self.candidates),), -1.0))  # -1: nobody looked yet
        self.register_buffer("bits", _packed(known))

    def contains(self, xyz: Tensor) -> Tensor:
        """bool [N]: whether there may be matter at points [N, 3] of the field frame."""
        if self.contracted:
            xyz = contract(xyz)[0]
        cell = ((xyz / self.half + 1) * (self.cells / 2)).floor()
        inside = ((cell >= 0) & (cell < self.cells)).all(-1)
        i, j, k = cell.clamp(0, self.cells - 1).long().unbind(-1)
        index = i + self.cells * (j + self.cells * k)
        return inside & ((self.bits[index >> 3] >> (index & 7)) & 1).bool()

    @torch.no_grad()
    def refresh(self, density: Callable[[Tensor], Tensor], every: int, generator: torch.Generator) -> None:
        """Looks at every k-th candidate, from a random first one on, at a random point of each.

        Args:
            density: [M, 3] points of the cube -> [M], per field unit (of the contracted space).
        """
        draw = {"generator": generator, "device": generator.device}
        first = int(torch.randint(every, (1,), **draw))
        cells = self.candidates[first::every].long()
        corner = torch.stack([cells % self.cells, cells // self.cells % self.cells, cells // self.cells**2], -1)
        xyz = ((corner + torch.rand(len(cells), 3, **draw)) * (2 / self.cells) - 1) * self.half
        self.density[first::every] = torch.maximum(self.density[first::every] * self.DECAY, density(xyz))
        # While the field is still thin everywhere, nothing above the mean is taken for empty.
        limit = self.density.clamp(0, 1e3).sum().div(self.cells**3).clamp(max=self.limit)
        full = torch.zeros(self.cells**3, dtype=torch.bool, device=self.density.device)
        full[self.candidates.long()] = (self.density < 0) | (self.density > limit)
        self.bits.copy_(_packed(full))


def _known(scene: Scene, cells: int) -> np.ndarray:
    """bool [cells^3], x fastest: cells that may hold matter by what is known of the scene."""
    centre = (np.arange(cells) + 0.5) * (2 / cells) - 1
    if scene.unbounded:  # a ball fills the cube; a cell that it touches counts
        x, y, z = np.meshgrid(*[np.maximum(np.abs(centre) - 1 / cells, 0) ** 2] * 3, indexing="ij")
        return (x + y + z < 1).ravel()
    shape = (cells,) * 3 if scene.occupied is None else scene.occupied.shape
    inside, index = [], []
    for axis in range(3):
        low, high = scene.bounds_min[axis], scene.bounds_max[axis]
        half = 1 / cells  # a cell that the box touches counts
        inside.append((centre + half > low) & (centre - half < high))
        index.append(np.clip(((centre - low) / (high - low) * shape[axis]).astype(int), 0, shape[axis] - 1))
    known = np.ones(shape, bool) if scene.occupied is None else scene.occupied
    fine = known[np.ix_(*index)] & inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :]
    return np.ascontiguousarray(fine.transpose(2, 1, 0)).ravel()


def _packed(cells: Tensor) -> Tensor:
    """bool [C] -> uint8 [ceil(C / 8)], first cell in the lowest bit."""
    padded = torch.nn.functional.pad(cells, (0, -len(cells) % 8)).view(-1, 8).to(torch.uint8)
    return (padded << torch.arange(8, dtype=torch.uint8, device=cells.device)).sum(1, dtype=torch.uint8)

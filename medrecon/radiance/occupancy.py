# SPDX-License-Identifier: Apache-2.0
"""A grid that remembers where there may be matter, so that nothing is computed where there is none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medrecon.radiance.contraction import HALF, contract
from medrecon.radiance.scene import Scene
from medrecon.radiance.scene_setup import cell_centres, grid_shape


class OccupancyGrid(nn.Module):
    """Cells over the scene's bounds, refreshed from the field while it learns.

    Cells that the pictures show to be empty (``scene.occupied``) never come back; the others follow a decaying maximum
    of the density found in them (Mueller 2022, instant-ngp, section "occupancy grids"). For an unbounded scene they are
    cells of the contracted space, and what it calls densities are those per contracted length.

    Args:
        scene: gives bounds and known emptiness.
        cells: along the longest side, where the scene brings no grid of its own.
        threshold: a cell is empty when a ray crossing it would lose less than this share of its light.
    """

    DECAY = 0.9
    REACHES = (0, 1, 2, 3, 4, 6, 8, 12, 16)  # cells, by which what is occupied is widened for wide cones

    def __init__(self, scene: Scene, cells: int, threshold: float):
        super().__init__()
        self.contracted = scene.unbounded
        low, high = (np.full(3, -HALF), np.full(3, HALF)) if scene.unbounded else (scene.bounds_min, scene.bounds_max)
        known = scene.occupied
        if known is None:
            known = np.ones(grid_shape(low, high, cells), bool)
        shape = known.shape
        cell = (high - low) / np.array(shape)
        if scene.unbounded:  # a ball fills the cube; a cell that it touches counts
            known = np.linalg.norm(cell_centres(low, high, shape), axis=-1) < HALF + cell.max()
        self.shape, self.cell = shape, float(cell.max())
        self.optical_threshold = -float(np.log1p(-threshold))
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32))
        self.register_buffer("inverse_cell", torch.tensor(1 / cell, dtype=torch.float32))
        self.register_buffer("known", torch.from_numpy(known.copy()).flatten())
        self.register_buffer("occupied", self.known.clone())
        # Largest density found in each cell, lately; -1 where nobody looked yet.
        self.register_buffer("density", torch.full((known.size,), -1.0))
        self._widened, self._widened_from = {}, None

    def _cell_index(self, xyz: Tensor) -> tuple[Tensor, Tensor]:
        """(flat cell index, clamped; bool inside the bounds) of points [..., 3]."""
        x, y, z = ((xyz - self.low) * self.inverse_cell).unbind(-1)
        nx, ny, nz = self.shape
        inside = (x >= 0) & (y >= 0) & (z >= 0) & (x < nx) & (y < ny) & (z < nz)
        i = x.long().clamp(0, nx - 1)
        i = i * ny + y.long().clamp(0, ny - 1)
        return i * nz + z.long().clamp(0, nz - 1), inside

    def contains(self, xyz: Tensor, radius: Tensor | None = None) -> Tensor:
        """bool [...]: whether there may be matter at points [..., 3], or, where radii [...] are given, that near them.

        A pixel much wider than a cell shows matter that its middle misses; asked about points alone, the grid would
        cut a hard edge into what the pixel blurs.
        """
        if self.contracted:
            flat, across, radial = contract(xyz.reshape(-1, 3))
            xyz = flat.view_as(xyz)
            radius = None if radius is None else radius * (across * across * radial).view_as(radius) ** (1 / 3)
        index, inside = self._cell_index(xyz)
        if radius is None:
            return self.occupied[index] & inside
        # A cone no wider than a cell is left as it is: the grid itself is no finer.
        cells = radius / self.cell - 1
        most = float(cells.max()) if cells.numel() else 0.0
        found = self.occupied[index]
        for less, reach in zip(self.REACHES, self.REACHES[1:]):
            if most > less:
                found = torch.where(cells > less, self._within(reach)[index], found)
        return found & inside

    def _within(self, reach: int) -> Tensor:
        """bool [cells]: whether a cell at most ``reach`` away along each axis is occupied."""
        state = (self.occupied.data_ptr(), self.occupied._version)
        if state != self._widened_from:
            self._widened, self._widened_from = {}, state
        if reach not in self._widened:
            grid = self.occupied.view(1, 1, *self.shape).float()
            for axis in range(3):
                size = [1, 1, 1]
                size[axis] = 2 * reach + 1
                grid = F.max_pool3d(grid, size, 1, [s // 2 for s in size])
            self._widened[reach] = grid.flatten() > 0
        return self._widened[reach]

    @torch.no_grad()
    def refresh(self, density: Callable[[Tensor], Tensor], every: int, generator: torch.Generator) -> None:
        """Looks at every k-th cell that may hold matter, from a random first one on, at a random point of each."""
        draw = {"generator": generator, "device": generator.device}
        first = int(torch.randint(every, (1,), **draw))
        cells = self.known.nonzero().squeeze(1)[first::every]
        _, ny, nz = self.shape
        corner = torch.stack([cells // (ny * nz), cells // nz % ny, cells % nz], -1)
        xyz = self.low + (corner + torch.rand(len(cells), 3, **draw).to(self.low)) / self.inverse_cell
        self.density[cells] = torch.maximum(self.density[cells] * self.DECAY, density(xyz))
        self.occupied.copy_(self.known & ((self.density < 0) | (self.density * self.cell > self.optical_threshold)))

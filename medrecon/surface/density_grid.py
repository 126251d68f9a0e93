# SPDX-License-Identifier: Apache-2.0
"""The density of a trained field on a regular grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from medrecon.errors import StageError
from medrecon.progress import Progress
from medrecon.types import Sim3

if TYPE_CHECKING:
    from medrecon.radiance.renderer import Renderer
    from medrecon.radiance.scene import Scene


@dataclass(frozen=True, slots=True)
class DensityGrid:
    """Density samples in the field frame.

    Attributes:
        values: float32 [I, J, K], per field unit, >= 0.
        origin: float64 [3], position of sample (0, 0, 0).
        step: distance between samples, field units, the same along the three axes.
    """

    values: np.ndarray
    origin: np.ndarray
    step: float

    @property
    def field_from_ijk(self) -> Sim3:
        """Takes sample indices to the field frame."""
        return Sim3(self.step, np.eye(3), self.origin)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Trilinear density float32 [N] at field-frame points [N, 3]; 0 outside."""
        ijk = ((points - self.origin) / self.step).T
        return map_coordinates(self.values, ijk, order=1, mode="constant", cval=0.0)


def sample_density(
    renderer: "Renderer", scene: "Scene", resolution: int, device: str, progress: Progress, batch: int = 1 << 17
) -> DensityGrid:
    """Sample the box of the scene with ``resolution`` samples along its longest side.

    What the scene knows to be empty is set to 0 without asking the field.  Raises StageError: densities not finite.
    """
    extent = scene.bounds_max - scene.bounds_min
    step = float(extent.max()) / (resolution - 1)
    shape = tuple(int(n) for n in np.maximum(np.ceil(extent / step - 1e-9) + 1, 2))
    values = np.zeros(shape, np.float32)
    progress.begin(shape[0], "density slices")
    jk = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij"), -1).reshape(-1, 2)
    slab = max(1, batch // len(jk))
    with torch.no_grad():
        for i in range(0, shape[0], slab):
            n = min(slab, shape[0] - i)
            ijk = np.concatenate([np.repeat(np.arange(i, i + n), len(jk))[:, None], np.tile(jk, (n, 1))], 1)
            points = scene.bounds_min + ijk * step
            wanted = np.flatnonzero(_may_hold_matter(scene, points))
            flat = np.zeros(len(points), np.float32)
            for k in range(0, len(wanted), batch):
                pick = wanted[k : k + batch]
                xyz = torch.from_numpy(points[pick].astype(np.float32)).to(device)
                flat[pick] = renderer.density(xyz).reshape(-1).float().cpu().numpy()
            values[i : i + n] = flat.reshape(n, shape[1], shape[2])
            progress.advance(n)
    if not np.isfinite(values).all():
        raise StageError("the field's density is not finite everywhere", "train again with another seed or lower rate")
    return DensityGrid(values, np.array(scene.bounds_min, np.float64), step)


def _may_hold_matter(scene: "Scene", points: np.ndarray) -> np.ndarray:
    """bool [N]: False where the scene's occupancy says that the place is empty."""
    occupied = getattr(scene, "occupied", None)
    if occupied is None:
        return np.ones(len(points), bool)
    size = np.array(occupied.shape)
    cell = ((points - scene.bounds_min) / (scene.bounds_max - scene.bounds_min) * size).astype(int)
    return occupied[tuple(np.clip(cell, 0, size - 1).T)]

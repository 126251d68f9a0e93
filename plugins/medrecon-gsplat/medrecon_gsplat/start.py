# SPDX-License-Identifier: Apache-2.0
"""Where Gaussians begin: at the points of structure from motion, or anywhere in the scene."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from medrecon.radiance import Scene

OPACITY = 0.1
SH_0 = 0.28209479177387814  # the constant spherical harmonic


def anywhere(scene: Scene, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Centres float [n, 3] in the box, where it is not known to be empty, and sizes [n]."""
    low, high = (torch.tensor(b, dtype=torch.float32) for b in (scene.bounds_min, scene.bounds_max))
    known = np.ones((1, 1, 1), bool) if scene.occupied is None else scene.occupied
    cells = torch.from_numpy(np.argwhere(known)).float()
    if not len(cells):
        cells, known = torch.zeros(1, 3), np.ones((1, 1, 1), bool)
    side = (high - low) / torch.tensor(known.shape)
    cell = cells[torch.randint(len(cells), (n,), generator=generator)]
    centres = low + (cell + torch.rand(n, 3, generator=generator)) * side
    volume = float(side.prod()) * len(cells)
    return centres, torch.full((n,), 0.5 * (volume / n) ** (1 / 3))


def at_points(points: Tensor, colours: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Centres [n, 3], sizes [n] and colours [n, 3]: every point once, then points drawn again, a little beside.

    The size is the mean distance to the three nearest points (Kerbl et al. 2023, section 5.1), and less where several
    Gaussians share a point.
    """
    p = len(points)
    order = torch.randperm(p, generator=generator)[:n]
    more = torch.randint(p, (n - len(order),), generator=generator)
    if p > 1:
        near = torch.from_numpy(cKDTree(points.numpy()).query(points.numpy(), min(4, p))[0][:, 1:].mean(1)).float()
    else:
        near = torch.full((1,), 0.05)
    near = near.clamp(1e-4, 0.1)
    pick = torch.cat([order, more])
    centres = points[pick].clone()
    centres[len(order) :] += near[more, None] * torch.randn(len(more), 3, generator=generator)
    return centres, near[pick] * (p / max(n, p)) ** (1 / 3), colours[pick]


def logit(x: float) -> float:
    return math.log(x / (1 - x))

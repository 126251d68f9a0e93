# SPDX-License-Identifier: Apache-2.0
"""A light that moves with the camera, as an endoscope's does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from medrecon.radiance.scene import Scene
from medrecon.radiance.scene_setup import BEYOND
from medrecon.types import RayBatch


class CameraLight(nn.Module):
    """What is seen is what a surface sends back times what of the light arrives there: (r / d)^p * cos(a)^k * (n.l)^q.

    d is the distance from the camera, a the angle to its axis and n.l the cosine between the surface's normal and the
    way back to the camera, where the light is: p = 2 is the inverse-square law, k what the lamp and the lens take from
    the rim, q = 1 the law of Lambert. All are learnt, since cameras bend the scale of brightness, and begin at 0: while
    a field is fog, its depths and normals would mislead. How strong the light is, which cameras regulate, is the
    appearance code's matter.

    Args:
        scene: r is the middle of its depths, where the factor is about 1.
        cosine: whether there is a q; without, the angle of a surface is left to the field's colour.
    """

    LIMIT = 4.0  # matter right before the lens must not be had brightly for little

    def __init__(self, scene: Scene, cosine: bool = False):
        super().__init__()
        beyond = BEYOND if scene.unbounded else 1.0
        depths = [(near, far / beyond) for near, far in scene.near_far.values()]
        self.register_buffer("reference", torch.tensor(float(np.mean(depths))))
        self.exponents = nn.Parameter(torch.zeros(3 if cosine else 2))

    @property
    def wants_cosine(self) -> bool:
        return len(self.exponents) == 3

    def forward(self, rays: RayBatch, depth: Tensor, cosine: Tensor | None = None) -> Tensor:
        """[N], by which the colours of rays that end at ``depth`` [N] (z-depth) are multiplied; 1 where it is 0.

        Args:
            cosine: [N], n.l as `surface_cosine` has it; needed where the light wants it.
        """
        length = rays.directions.norm(dim=-1)  # 1 / cos(a), since directions have a z of 1
        hit = depth > 0
        nearer = torch.log(self.reference / torch.where(hit, depth * length, self.reference))
        logarithms = [nearer, -torch.log(length)] + ([torch.log(cosine)] if self.wants_cosine else [])
        factor = torch.exp(sum(e * x for e, x in zip(self.exponents, logarithms))).clamp(1 / self.LIMIT, self.LIMIT)
        return torch.where(hit, factor, torch.ones_like(factor))


LEAST_COSINE = 0.05  # of a surface that is seen from the side: what is less is noise of the normal
GOLDEN = (1 + 5**0.5) / 2
# Of an icosahedron, on the unit sphere. The four of a tetrahedron are too few: what is lost is nearly 0 or 1 at each.
CORNERS = [
    [p / (1 + GOLDEN**2) ** 0.5 for p in (*place[k:], *place[:k])]
    for place in [(0.0, a, b) for a in (1.0, -1.0) for b in (GOLDEN, -GOLDEN)]
    for k in range(3)
]


@torch.no_grad()
def surface_cosine(density: Callable[[Tensor], Tensor], rays: RayBatch, depth: Tensor, reach: float) -> Tensor:
    """Cosine between the surface at ``depth`` [N] along rays and the way back: [N], LEAST_COSINE..1, 1 where none is.

    The normal is the direction in which light comes through most easily: minus the gradient, by finite differences, of
    what share of its light a ray would lose within ``reach``. That share ends at 1 within matter and at 0 outside, so
    that the density's noise there, where no picture tells it, does not turn the normal.

    Args:
        density: [M, 3] points of the field frame -> [M], per field unit.
        reach: how far from the surface is looked, in field units.
    """
    corners = torch.tensor(CORNERS).to(depth)
    surface = rays.origins + depth[:, None] * rays.directions
    around = surface[:, None] + reach * corners
    lost = -torch.expm1(-reach * density(around.view(-1, 3)).view(-1, len(corners)))
    normal = -lost @ corners
    size = normal.norm(dim=-1)
    towards = -(normal * rays.directions).sum(-1) / (size * rays.directions.norm(dim=-1)).clamp_min(1e-12)
    return torch.where((depth > 0) & (size > 1e-3), towards.clamp(LEAST_COSINE, 1), torch.ones_like(depth))

# SPDX-License-Identifier: Apache-2.0
"""Classical NeRF (Mildenhall 2020; paper eq. 2-3): point samples, positional encoding, a coarse and a fine network."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon import ops
from medrecon.radiance.contraction import contract
from medrecon.radiance.mlp import FieldMlp
from medrecon.radiance.two_level import TwoLevelConfig, TwoLevelRenderer
from medrecon.types import RayBatch


class NerfRendererConfig(TwoLevelConfig):
    """Options of ``nerf``."""


class NerfRenderer(TwoLevelRenderer):
    """One infinitely thin ray per pixel. The fine network sees the union of both levels' samples (section 5.2)."""

    name = "nerf"
    n_networks = 2

    def composite(
        self, network: FieldMlp, rays: RayBatch, t: Tensor, inside: Tensor, view: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        middle = ((t[:, 1:] + t[:, :-1]) / 2).flatten()

        def encode(keep: Tensor, ray: Tensor) -> tuple[Tensor, "Tensor | float"]:
            xyz = rays.origins[ray] + middle.index_select(0, keep)[:, None] * rays.directions[ray]
            if not self.grid.contracted:
                return self.encode_points(xyz), 1.0
            places, _, radial = contract(xyz)
            return self.encode_points(places), radial

        return self._by_steps(network, rays, t, inside, view, encode)

    def encode_points(self, xyz: Tensor) -> Tensor:
        return ops.positional_encoding(xyz, 0, self.config.max_degree)

    def fine_edges(self, coarse: Tensor, resampled: Tensor) -> Tensor:
        return torch.cat([coarse, resampled], -1).sort(-1).values

# SPDX-License-Identifier: Apache-2.0
"""Classical NeRF (Mildenhall 2020; paper eq. 2-3): point samples, positional encoding, a coarse and a fine network."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon import ops
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
        n, s = inside.shape
        keep = inside.flatten().nonzero().squeeze(1)
        ray = torch.div(keep, s, rounding_mode="floor")
        middle = ((t[:, 1:] + t[:, :-1]) / 2).flatten().index_select(0, keep)
        features = network.features(self.encode_points(rays.origins[ray] + middle[:, None] * rays.directions[ray]))
        density = t.new_zeros(n * s).index_copy(0, keep, network.density(features)).view(n, s)
        if view is None:
            rgb = t.new_zeros(n, s, 3)
        else:
            rgb = t.new_zeros(n * s, 3).index_copy(0, keep, network.colour(features, view, ray)).view(n, s, 3)
        return ops.composite(rgb, density, t, rays.directions)

    def encode_points(self, xyz: Tensor) -> Tensor:
        return ops.positional_encoding(xyz, 0, self.config.max_degree)

    def fine_edges(self, coarse: Tensor, resampled: Tensor) -> Tensor:
        return torch.cat([coarse, resampled], -1).sort(-1).values

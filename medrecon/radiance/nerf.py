# SPDX-License-Identifier: Apache-2.0
"""Classical NeRF (Mildenhall 2020; paper eq. 2-3): point samples, positional encoding, a coarse and a fine network."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon import ops
from medrecon.radiance.two_level import TwoLevelConfig, TwoLevelRenderer
from medrecon.types import RayBatch


class NerfRendererConfig(TwoLevelConfig):
    """Options of ``nerf``."""


class NerfRenderer(TwoLevelRenderer):
    """One infinitely thin ray per pixel. The fine network sees the union of both levels' samples (section 5.2)."""

    name = "nerf"
    n_networks = 2

    def encode(self, rays: RayBatch, t: Tensor, keep: Tensor) -> Tensor:
        s = t.shape[1] - 1
        ray = torch.div(keep, s, rounding_mode="floor")
        middle = ((t[:, 1:] + t[:, :-1]) / 2).flatten().index_select(0, keep)
        return self.encode_points(rays.origins[ray] + middle[:, None] * rays.directions[ray])

    def encode_points(self, xyz: Tensor) -> Tensor:
        return ops.positional_encoding(xyz, 0, self.config.max_degree)

    def fine_edges(self, coarse: Tensor, resampled: Tensor) -> Tensor:
        return torch.cat([coarse, resampled], -1).sort(-1).values

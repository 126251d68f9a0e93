# SPDX-License-Identifier: Apache-2.0
"""mip-NeRF (Barron 2021; paper eq. 4-11): cones, integrated positional encoding, one network at two levels."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon import ops
from medrecon.radiance.two_level import TwoLevelConfig, TwoLevelRenderer
from medrecon.types import RayBatch


class MipNerfRendererConfig(TwoLevelConfig):
    """Options of ``mipnerf``. The published network is depth 8, width 256, 128 + 128 samples, 16 octaves."""


class MipNerfRenderer(TwoLevelRenderer):
    """A cone per pixel; each frustum becomes a Gaussian whose expected encoding feeds the network.

    The same network serves both levels, because the encoding knows how large the frustum is.
    """

    name = "mipnerf"
    n_networks = 1

    def encode(self, rays: RayBatch, t: Tensor, keep: Tensor) -> Tensor:
        mean, var = ops.cast_rays(t, rays.origins, rays.directions, rays.radii)
        mean, var = (x.flatten(0, 1).index_select(0, keep) for x in (mean, var))
        return ops.integrated_positional_encoding(mean, var, 0, self.config.max_degree)

    def encode_points(self, xyz: Tensor) -> Tensor:
        # A point as small as a pixel's footprint: detail finer than that was never taught.
        var = torch.full_like(xyz, 1.0) * self.point_sigma**2
        return ops.integrated_positional_encoding(xyz, var, 0, self.config.max_degree)

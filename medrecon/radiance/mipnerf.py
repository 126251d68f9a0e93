# SPDX-License-Identifier: Apache-2.0
"""mip-NeRF (Barron 2021; paper eq. 4-11): cones, integrated positional encoding, one network at two levels."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon import ops
from medrecon.radiance.contraction import contract_gaussians
from medrecon.radiance.mlp import FieldMlp
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

    def composite(
        self, network: FieldMlp, rays: RayBatch, t: Tensor, inside: Tensor, view: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self.grid.contracted:  # the kernel's Gaussians lie along straight lines
            mean, var, radial = contract_gaussians(rays, t)

            def encode(keep: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
                gaussians = (x.flatten(0, 1).index_select(0, keep) for x in (mean, var))
                encoded = ops.integrated_positional_encoding(*gaussians, 0, self.config.max_degree)
                return encoded, radial.flatten().index_select(0, keep)

            return self._by_steps(network, rays, t, inside, view, encode)
        bias = t.new_zeros(len(t), network.colour_width) if view is None else network.ray_bias(view)
        c = self.config
        return ops.fused_field(
            t, rays.origins, rays.directions, rays.radii, network.flat_parameters(), bias,
            max_deg=c.max_degree, width=network.width, layers=c.depth, colour_width=network.colour_width,
            density_shift=c.density_shift, density_gain=c.density_gain, mask=inside,
        )  # fmt: skip

    def footprint(self, rays: RayBatch, t: Tensor) -> Tensor:
        return t * rays.radii

    def encode_points(self, xyz: Tensor) -> Tensor:
        # A point as small as a pixel's footprint: detail finer than that was never taught.
        var = torch.full_like(xyz, 1.0) * self.point_sigma**2
        return ops.integrated_positional_encoding(xyz, var, 0, self.config.max_degree)

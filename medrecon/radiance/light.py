# SPDX-License-Identifier: Apache-2.0
"""A light that moves with the camera, as an endoscope's does."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from medrecon.radiance.scene import Scene
from medrecon.types import RayBatch


class CameraLight(nn.Module):
    """What is seen is what a surface sends back times what of the light arrives there: (r / d)^p * cos(a)^k.

    d is the distance from the camera and a the angle to its axis, where the light is: p = 2 is the inverse-square law,
    k what the lamp and the lens take from the rim. Both are learnt, since cameras bend the scale of brightness, and
    begin at 0: while a field is fog, its depths would mislead. How strong the light is, which cameras regulate, is the
    appearance code's matter. The angle between the light and the surface is left to the field's colour.

    Args:
        scene: r is the middle of its depths, where the factor is about 1.
    """

    LIMIT = 4.0  # matter right before the lens must not be had brightly for little

    def __init__(self, scene: Scene):
        super().__init__()
        self.register_buffer("reference", torch.tensor(float(np.mean(list(scene.near_far.values())))))
        self.exponents = nn.Parameter(torch.zeros(2))

    def forward(self, rays: RayBatch, depth: Tensor) -> Tensor:
        """[N], by which the colours of rays that end at ``depth`` [N] (z-depth) are multiplied; 1 where it is 0."""
        length = rays.directions.norm(dim=-1)  # 1 / cos(a), since directions have a z of 1
        hit = depth > 0
        nearer = torch.log(self.reference / torch.where(hit, depth * length, self.reference))
        p, k = self.exponents
        factor = torch.exp(p * nearer - k * torch.log(length)).clamp(1 / self.LIMIT, self.LIMIT)
        return torch.where(hit, factor, torch.ones_like(factor))

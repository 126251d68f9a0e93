# SPDX-License-Identifier: Apache-2.0
"""The network of a field: position to density; position, direction and appearance to colour."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FieldMlp(nn.Module):
    """Trunk of ``depth`` layers; a density head; a colour head of one hidden layer.

    The first layer of the colour head takes [trunk, direction, code] side by side (mip-NeRF figure 4, paper eq. 11). It
    is kept as two matrices, so that what is constant along a ray is multiplied once per ray, not once per sample.

    Args:
        n_in: size of the encoded position.
        n_view: size of what goes to the colour head only: encoded direction and appearance code.
        density_shift, density_gain: density = gain * activation(raw + shift), per field unit (mip-NeRF: shift -1). A
            start well above zero matters: an empty start gets no gradient.
        colour_width: units of the colour head's hidden layer; None is half the width.
        activation: softplus, or exp, which reaches large densities in few steps (instant-ngp); it ends at e^15.
    """

    def __init__(
        self, n_in: int, n_view: int, width: int, depth: int, density_shift: float, density_gain: float,
        generator: torch.Generator, colour_width: int | None = None,
        activation: Literal["softplus", "exp"] = "softplus",
    ):  # fmt: skip
        super().__init__()
        self.trunk = nn.ModuleList(nn.Linear(n_in if i == 0 else width, width) for i in range(depth))
        self.density_head = nn.Linear(width, 1)
        self.width, self.colour_width = width, colour_width or max(width // 2, 1)
        self.colour_from_trunk = nn.Linear(width, self.colour_width)
        self.colour_from_view = nn.Linear(n_view, self.colour_width, bias=False)
        self.colour_head = nn.Linear(self.colour_width, 3)
        self.density_shift, self.density_gain, self.activation = density_shift, density_gain, activation
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                bound = math.sqrt(6 / (layer.in_features + layer.out_features))  # Glorot, as mip-NeRF
                with torch.no_grad():
                    layer.weight.copy_((torch.rand(layer.weight.shape, generator=generator) * 2 - 1) * bound)
                    if layer.bias is not None:
                        layer.bias.zero_()

    def features(self, encoded: Tensor) -> Tensor:
        """[M, n_in] -> [M, width]."""
        for layer in self.trunk:
            encoded = F.relu(layer(encoded), inplace=True)
        return encoded

    def density(self, features: Tensor) -> Tensor:
        """[M, width] -> [M], per field unit."""
        raw = self.density_head(features).squeeze(-1) + self.density_shift
        return self.density_gain * (F.softplus(raw) if self.activation == "softplus" else raw.clamp(max=15).exp())

    def colour(self, features: Tensor, view: Tensor, ray: Tensor) -> Tensor:
        """features [M, width], view [N, n_view] per ray, ray int64 [M] (ray of each sample) -> [M, 3] in 0..1."""
        per_ray = self.colour_from_view(view).index_select(0, ray)
        hidden = F.relu(self.colour_from_trunk(features) + per_ray)
        return torch.sigmoid(self.colour_head(hidden))

    def ray_bias(self, view: Tensor) -> Tensor:
        """view [N, n_view] -> [N, colour_width]: what is added along a whole ray before the colour head's rectifier."""
        return self.colour_from_view(view) + self.colour_from_trunk.bias

    def flat_parameters(self) -> Tensor:
        """[P], differentiable: everything but what `ray_bias` holds, in the order of `medrecon.ops.fused_field`."""
        pieces = [p for layer in (*self.trunk, self.density_head) for p in (layer.weight, layer.bias)]
        pieces += [self.colour_from_trunk.weight, self.colour_head.weight, self.colour_head.bias]
        return torch.cat([p.flatten() for p in pieces])

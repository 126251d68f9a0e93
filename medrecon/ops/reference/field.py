# SPDX-License-Identifier: Apache-2.0
"""A whole radiance field along rays: cones, their encoding, a small network and compositing (mip-NeRF)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .encodings import integrated_positional_encoding
from .rays import cast_rays
from .rendering import composite

Layer = tuple[Tensor, Tensor]


def field_layers(
    parameters: Tensor, n_in: int, width: int, layers: int, colour_width: int
) -> tuple[list[Layer], Layer, Tensor, Layer]:
    """Views into the flat parameters: (trunk, density head, colour from trunk, colour head), see functions.fused_field.

    Each layer is (weight [n_out, n_in], bias [n_out]); the bias of "colour from trunk" is part of ``ray_bias``.
    """
    sizes = [(width, n_in if i == 0 else width) for i in range(layers)]
    shapes = [shape for n_out, k in sizes for shape in ((n_out, k), (n_out,))]
    shapes += [(1, width), (1,), (colour_width, width), (3, colour_width), (3,)]
    lengths = [torch.Size(shape).numel() for shape in shapes]
    views = [part.view(shape) for part, shape in zip(parameters.split(lengths), shapes)]
    trunk = [(views[2 * i], views[2 * i + 1]) for i in range(layers)]
    density_weight, density_bias, colour_weight, head_weight, head_bias = views[2 * layers :]
    return trunk, (density_weight, density_bias), colour_weight, (head_weight, head_bias)


def fused_field(
    t: Tensor, origins: Tensor, directions: Tensor, radii: Tensor, parameters: Tensor, ray_bias: Tensor,
    background: Tensor | None, mask: Tensor | None, min_deg: int, max_deg: int, width: int, layers: int,
    colour_width: int, density_shift: float, density_gain: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See functions.fused_field: mip-NeRF eq. 7, 8, 14, 16, the network of its figure 4 made small, then eq. 3."""
    n, s = t.shape[0], t.shape[1] - 1
    mean, var = cast_rays(t, origins, directions, radii)
    mean, var = mean.flatten(0, 1), var.flatten(0, 1)
    ray = torch.arange(n, device=t.device).repeat_interleave(s)
    keep = None if mask is None else mask.flatten().nonzero().squeeze(1)
    if keep is not None:
        mean, var, ray = mean[keep], var[keep], ray[keep]
    encoded = integrated_positional_encoding(mean, var, min_deg, max_deg)

    trunk, (density_weight, density_bias), colour_weight, head = field_layers(
        parameters, encoded.shape[1], width, layers, colour_width
    )
    features = encoded
    for weight, bias in trunk:
        features = F.relu(F.linear(features, weight, bias))
    raw = (features @ density_weight.T).squeeze(-1) + density_bias + density_shift
    density = density_gain * F.softplus(raw)
    hidden = F.relu(F.linear(features, colour_weight) + ray_bias[ray])
    rgb = torch.sigmoid(F.linear(hidden, *head))
    if keep is not None:
        density = density.new_zeros(n * s).index_copy(0, keep, density)
        rgb = rgb.new_zeros(n * s, 3).index_copy(0, keep, rgb)
    return composite(rgb.view(n, s, 3), density.view(n, s), t, directions, background)


def fused_field_loss(
    t: Tensor, origins: Tensor, directions: Tensor, radii: Tensor, parameters: Tensor, ray_bias: Tensor,
    background: Tensor | None, mask: Tensor | None, target: Tensor, ray_weight: Tensor, min_deg: int, max_deg: int,
    width: int, layers: int, colour_width: int, density_shift: float, density_gain: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """See functions.fused_field_loss."""
    numbers = (min_deg, max_deg, width, layers, colour_width, density_shift, density_gain)
    rgb, _, _, weights = fused_field(t, origins, directions, radii, parameters, ray_bias, background, mask, *numbers)
    loss = (ray_weight * ((rgb - target) ** 2).mean(-1)).sum()
    return loss, rgb.detach(), weights.detach()

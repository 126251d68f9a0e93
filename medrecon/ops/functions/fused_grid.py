# SPDX-License-Identifier: Apache-2.0
"""A radiance field in a hash grid, along rays and in one call: marching, encoding, network and compositing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from ..backends import kernels_for
from ..reference.fused_grid import Steps
from . import checks
from .field import MOST_LAYERS, WIDEST
from .grid import checked_levels, grid_encode
from .march import check_rays, march_rays
from .packed_rendering import composite_packed

TENSORS = ("origins", "directions", "near", "far", "table", "parameters", "ray_bias")
MOST_FEATURES = 1024  # of all levels together


def fused_grid(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    occupancy: Tensor,
    table: Tensor,
    parameters: Tensor,
    ray_bias: Tensor,
    *,
    resolution: int,
    step: float,
    resolutions: Sequence[int],
    log2_size: int,
    width: int,
    colour_width: int,
    layers: int = 1,
    density_shift: float = 0.0,
    cone: float = 0.0,
    jitter: Tensor | None = None,
    max_samples: int = 1024,
    radii: Tensor | None = None,
    stop: float = 0.0,
    background: Tensor | None = None,
    contract: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Renders rays through a field in a multiresolution hash grid (instant-ngp, Mueller et al. 2022).

    It is `march_rays`, `grid_encode` at the middle of each interval, a network and `composite_packed`. The network is
    that of `fused_field`: ``layers`` x ReLU(``width``) on the features; density = exp(min(w h + b + shift, 15)); colour
    = sigmoid(Wo ReLU(M h + ray_bias) + bo).

    Args:
        origins, directions, near, far, occupancy, resolution, step, cone, jitter, max_samples: as for `march_rays`.
        table, resolutions, log2_size: as for `grid_encode`.
        parameters: [Q], the matrices in the order and layout of `fused_field`; the first layer has n_in = L * F inputs.
        ray_bias: [N, colour_width], what the view direction and an appearance code give to the colour's hidden layer.
        width, layers, colour_width: 1 to 1024, 1 to 8, 1 to 1024.
        density_shift: density is per unit length of the cube.
        radii: [N], of each ray's cone at t = 1, as for `cast_rays`; levels fade with the standard deviation across the
            cone, radii * t / 2 (mip-NeRF, Barron et al. 2021, eq. 8, for short intervals). None: points, no fading.
        stop: what less light than this reaches weighs nothing, and is not computed.
        background: [3] or [N, 3], seen through what is left; None is black.
        contract: as for `march_rays`; the grid then holds the contracted space too. Standard deviations shrink by the
            geometric mean of the Jacobian's factors (Zip-NeRF, Barron et al. 2023), and densities are per unit length
            as it is contracted along lines to the middle.

    Returns:
        rgb [N, 3], depth [N], opacity [N], and seen int64 [N], the number of samples that at least ``stop`` of the
        light reaches. Differentiable in table, parameters, ray_bias and background; the gradient of table is summed in
        one order, whatever the number of threads. Where origins, directions or radii require gradients, and on a GPU,
        the same is put together from the single ops.

    Raises:
        ValueError: a shape, dtype, device or number does not fit; the message names it.
    """
    op = "fused_grid"
    tensors = (origins, directions, near, far, occupancy, table, parameters, ray_bias, jitter, radii, background)
    numbers = (resolution, float(step), float(cone), max_samples, float(stop), resolutions, log2_size, width, layers)
    numbers = _check(op, tensors, (*numbers, colour_width, float(density_shift), contract))
    if _kernel_serves(origins, directions, radii):
        return torch.ops.medrecon.fused_grid.default(*tensors, *numbers)
    return reference.fused_grid(*tensors, *numbers, steps=_steps())


def fused_grid_loss(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    occupancy: Tensor,
    table: Tensor,
    parameters: Tensor,
    ray_bias: Tensor,
    target: Tensor,
    ray_weight: Tensor,
    *,
    resolution: int,
    step: float,
    resolutions: Sequence[int],
    log2_size: int,
    width: int,
    colour_width: int,
    layers: int = 1,
    density_shift: float = 0.0,
    cone: float = 0.0,
    jitter: Tensor | None = None,
    max_samples: int = 1024,
    radii: Tensor | None = None,
    stop: float = 0.0,
    background: Tensor | None = None,
    contract: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error of `fused_grid` and its gradients in one pass: what a training step needs, without recomputation.

    Args:
        target: [N, 3], the colours wanted.
        ray_weight: [N]; the loss is the sum over rays of ray_weight * mean over channels of (rgb - target)^2.
        the others: as for `fused_grid`.

    Returns:
        loss [] (differentiable once in table, parameters, ray_bias and background), rgb [N, 3] and seen int64 [N]; the
        last two carry no gradient.

    Raises:
        ValueError: as `fused_grid`; or target or ray_weight require gradients, which there are none of.
    """
    op = "fused_grid_loss"
    tensors = (origins, directions, near, far, occupancy, table, parameters, ray_bias, jitter, radii, background)
    numbers = (resolution, float(step), float(cone), max_samples, float(stop), resolutions, log2_size, width, layers)
    numbers = _check(op, tensors, (*numbers, colour_width, float(density_shift), contract))
    checks.floating(op, origins=origins, target=target, ray_weight=ray_weight)
    checks.shaped(op, "target", target, (origins.shape[0], 3))
    checks.shaped(op, "ray_weight", ray_weight, (origins.shape[0],))
    if torch.is_grad_enabled() and (target.requires_grad or ray_weight.requires_grad):
        raise ValueError(f"{op}: target and ray_weight get no gradients; detach them, or use fused_grid")
    if _kernel_serves(origins, directions, radii):
        loss, rgb, seen, *_ = torch.ops.medrecon.fused_grid_loss.default(*tensors, target, ray_weight, *numbers)
        return loss, rgb.detach(), seen
    return reference.fused_grid_loss(*tensors, *numbers, target=target, ray_weight=ray_weight, steps=_steps())


def _kernel_serves(origins: Tensor, directions: Tensor, radii: Tensor | None) -> bool:
    moving = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (origins, directions, radii))
    return origins.device.type == "cpu" and kernels_for("cpu") and not moving


def _steps() -> Steps:
    return Steps(march_rays, grid_encode, composite_packed)


def _check(op: str, tensors: tuple[Tensor | None, ...], numbers: tuple) -> tuple:
    """The numbers as the operators want them."""
    origins, directions, near, far, occupancy, table, parameters, ray_bias, jitter, radii, background = tensors
    resolution, step, cone, max_samples, stop, resolutions, log2_size, width, layers, colour_width, shift, contract = (
        numbers
    )
    floating = (origins, directions, near, far, table, parameters, ray_bias)
    optional = {"jitter": jitter, "radii": radii, "background": background}
    checks.floating(op, optional, **dict(zip(TENSORS, floating)))
    check_rays(op, origins, directions, near, far, occupancy, resolution, step, cone, jitter, max_samples, contract)
    resolutions = checked_levels(op, resolutions, log2_size)
    for name, value, most in (
        ("width", width, WIDEST),
        ("layers", layers, MOST_LAYERS),
        ("colour_width", colour_width, WIDEST),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{op}: {name} is {value}, expected 1 to {most}")
    if not (0 <= stop < 1 and math.isfinite(shift)):
        raise ValueError(f"{op}: stop is {stop} and density_shift {shift}, expected 0 <= stop < 1 and a finite shift")
    if table.dim() != 2:
        raise ValueError(f"{op}: table has shape {checks.shape(table)}, expected [P, F]")
    checks.shaped(op, "table", table, (reference.grid_levels(resolutions, log2_size)[-1], table.shape[1]))
    n, n_in = origins.shape[0], len(resolutions) * table.shape[1]
    if not 1 <= n_in <= MOST_FEATURES:
        raise ValueError(f"{op}: {len(resolutions)} levels of {table.shape[1]} features, expected 1 to {MOST_FEATURES}")
    count = (n_in + 1) * width + (layers - 1) * (width + 1) * width + width + 1 + colour_width * (width + 3) + 3
    checks.shaped(op, "parameters", parameters, (count,))
    checks.shaped(op, "ray_bias", ray_bias, (n, colour_width))
    if radii is not None:
        checks.shaped(op, "radii", radii, (n,))
    checks.background(op, background, n)
    return (*numbers[:5], resolutions, *numbers[6:])

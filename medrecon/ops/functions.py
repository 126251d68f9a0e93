# SPDX-License-Identifier: Apache-2.0
"""The public ops: checks that name the argument, then the kernel, or the reference where there is none.

Shared by all: tensors are float32 or float64, of one dtype and on one device; any strides; sizes of 0 and 1 are fine.
What does not fit raises ValueError. Computation is in the dtype given: inside autocast, pass float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .backends import kernels_for

LARGEST_DEGREE = 32


def cast_rays(t: Tensor, origins: Tensor, directions: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """Approximates the conical frusta along rays by Gaussians with diagonal covariance (mip-NeRF eq. 7, 8, 16).

    Args:
        t: [N, S + 1], ascending fence posts along each ray, in units of ``directions``.
        origins: [N, 3], apexes of the cones.
        directions: [N, 3], not necessarily of unit length.
        radii: [N, 1], radius of the cone at t = 1 (half the pixel's width there, times 2 / sqrt(12)).

    Returns:
        mean, var: [N, S, 3]; differentiable twice in every input.
    """
    _floating("cast_rays", t=t, origins=origins, directions=directions, radii=radii)
    if t.dim() != 2 or t.shape[1] < 1:
        raise ValueError(f"cast_rays: t has shape {_shape(t)}, expected [N, S + 1]")
    n = t.shape[0]
    _shaped("cast_rays", "origins", origins, (n, 3))
    _shaped("cast_rays", "directions", directions, (n, 3))
    _shaped("cast_rays", "radii", radii, (n, 1))
    if kernels_for(t.device.type):
        return torch.ops.medrecon.cast_rays.default(t, origins, directions, radii)
    return reference.cast_rays(t, origins, directions, radii)


def positional_encoding(x: Tensor, min_deg: int, max_deg: int) -> Tensor:
    """Sines and cosines of 2^i x for i in [min_deg, max_deg) (NeRF eq. 4 without pi, as google/mipnerf).

    Args:
        x: [..., D].
        min_deg, max_deg: -32 <= min_deg <= max_deg <= 32.

    Returns:
        [..., 2 * D * (max_deg - min_deg)]: all sines, then all cosines; each half degree by degree, D values a degree.
        The input itself is not appended. Differentiable twice.
    """
    _encodable("positional_encoding", min_deg, max_deg, x=x)
    if kernels_for(x.device.type):
        return torch.ops.medrecon.positional_encoding.default(x, min_deg, max_deg)
    return reference.positional_encoding(x, min_deg, max_deg)


def integrated_positional_encoding(mean: Tensor, var: Tensor, min_deg: int, max_deg: int) -> Tensor:
    """The encoding's expected value over a Gaussian (mip-NeRF eq. 14): frequencies finer than the Gaussian fade out.

    Args:
        mean, var: [..., D], mean and variance on each axis.
        min_deg, max_deg: -32 <= min_deg <= max_deg <= 32.

    Returns:
        [..., 2 * D * (max_deg - min_deg)], laid out as by `positional_encoding`. Differentiable twice.
    """
    _encodable("integrated_positional_encoding", min_deg, max_deg, mean=mean, var=var)
    _shaped("integrated_positional_encoding", "var", var, tuple(mean.shape))
    if kernels_for(mean.device.type):
        return torch.ops.medrecon.integrated_positional_encoding.default(mean, var, min_deg, max_deg)
    return reference.integrated_positional_encoding(mean, var, min_deg, max_deg)


def composite(
    rgb: Tensor, density: Tensor, t: Tensor, directions: Tensor, background: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Volume rendering along rays (mip-NeRF eq. 3, Max 1995).

    Args:
        rgb: [N, S, 3], colour of each interval.
        density: [N, S], >= 0, per unit length of the space that ``directions`` lives in.
        t: [N, S + 1], ascending fence posts.
        directions: [N, 3]; an interval is (t1 - t0) * |direction| long.
        background: [3] or [N, 3], seen through what is left; None is black.

    Returns:
        rgb: [N, 3].
        depth: [N], expected interval midpoint in t given that the ray hits something; 0 where opacity is 0.
        opacity: [N], sum of the weights.
        weights: [N, S]. All differentiable.
    """
    given = {} if background is None else {"background": background}
    _floating("composite", rgb=rgb, density=density, t=t, directions=directions, **given)
    if density.dim() != 2:
        raise ValueError(f"composite: density has shape {_shape(density)}, expected [N, S]")
    n, s = density.shape
    _shaped("composite", "rgb", rgb, (n, s, 3))
    _shaped("composite", "t", t, (n, s + 1))
    _shaped("composite", "directions", directions, (n, 3))
    if background is not None and tuple(background.shape) not in ((3,), (n, 3)):
        raise ValueError(f"composite: background has shape {_shape(background)}, expected [3] or {[n, 3]}")
    return reference.composite(rgb, density, t, directions, background)


@torch.no_grad()
def resample(
    t: Tensor,
    weights: Tensor,
    n: int,
    padding: float = 0.01,
    deterministic: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """New fence posts where the weights are: samples of mip-NeRF's blurred histogram (section 3.2, eq. 18).

    Args:
        t: [N, S + 1], ascending fence posts; S >= 1.
        weights: [N, S], >= 0.
        n: number of fence posts wanted (one more than the intervals between them).
        padding: added to each blurred weight, so that empty space is still looked at.
        deterministic: evenly spaced quantiles; otherwise one random quantile in each of ``n`` equal strata.
        generator: source of the random numbers; on any device.

    Returns:
        [N, n], ascending, within the ray's t. Carries no gradient, as in the paper's code.
    """
    _floating("resample", t=t, weights=weights)
    if weights.dim() != 2 or weights.shape[1] < 1:
        raise ValueError(f"resample: weights has shape {_shape(weights)}, expected [N, S] with S >= 1")
    _shaped("resample", "t", t, (weights.shape[0], weights.shape[1] + 1))
    if n < 1:
        raise ValueError(f"resample: n is {n}, expected at least 1")
    if padding < 0:
        raise ValueError(f"resample: padding is {padding}, expected at least 0")
    return reference.resample(t, weights, n, padding, deterministic, generator)


def log_sinkhorn(scores: Tensor, bin_score: Tensor | float, iterations: int) -> Tensor:
    """Log of the optimal partial assignment between M and N items with a dustbin each (SuperGlue eq. 8-10).

    Args:
        scores: [B, M, N].
        bin_score: score of leaving an item unmatched; a number or a tensor of one element.
        iterations: Sinkhorn iterations, >= 0 (the paper: 100).

    Returns:
        [B, M + 1, N + 1]; after convergence exp() of it sums to 1 over each item's row or column, to N over the last
        row and to M over the last column. Differentiable twice in scores and bin_score, through the iterations.
    """
    _floating("log_sinkhorn", scores=scores)
    bin_score = torch.as_tensor(bin_score, dtype=scores.dtype, device=scores.device)
    if scores.dim() != 3:
        raise ValueError(f"log_sinkhorn: scores has shape {_shape(scores)}, expected [B, M, N]")
    if bin_score.numel() != 1:
        raise ValueError(f"log_sinkhorn: bin_score has shape {_shape(bin_score)}, expected one element")
    if iterations < 0:
        raise ValueError(f"log_sinkhorn: iterations is {iterations}, expected at least 0")
    bin_score = bin_score.reshape(1, 1, 1)
    if kernels_for(scores.device.type):
        return torch.ops.medrecon.log_sinkhorn.default(scores, bin_score, iterations)
    return reference.log_sinkhorn(scores, bin_score, iterations)


def _shape(x: Tensor) -> list[int]:
    return list(x.shape)


def _shaped(op: str, name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"{op}: {name} has shape {_shape(x)}, expected {list(shape)}")


def _floating(op: str, **tensors: Tensor) -> None:
    first_name, first = next(iter(tensors.items()))
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{op}: {name} must be a tensor, is {type(x).__name__}")
        if x.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{op}: {name} must be float32 or float64, is {x.dtype}; convert it with .float()")
        if x.dtype != first.dtype:
            raise ValueError(f"{op}: {name} is {x.dtype} but {first_name} is {first.dtype}")
        if x.device != first.device:
            raise ValueError(f"{op}: {name} is on {x.device} but {first_name} is on {first.device}")


def _encodable(op: str, min_deg: int, max_deg: int, **tensors: Tensor) -> None:
    _floating(op, **tensors)
    if not -LARGEST_DEGREE <= min_deg <= max_deg <= LARGEST_DEGREE:
        raise ValueError(f"{op}: needs -32 <= min_deg <= max_deg <= 32, got min_deg {min_deg} and max_deg {max_deg}")
    for name, x in tensors.items():
        if x.dim() < 1:
            raise ValueError(f"{op}: {name} is a single number, expected [..., D]")

# SPDX-License-Identifier: Apache-2.0
"""Features looked up in a multiresolution hash grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from ..backends import kernels_for
from . import checks

MOST_LEVELS, LARGEST_RESOLUTION, LARGEST_LOG2_SIZE = 32, 1 << 20, 30


def grid_levels(resolutions: Sequence[int], log2_size: int) -> tuple[int, ...]:
    """Where the levels of a hash grid lie in its table.

    Args:
        resolutions: cells along each axis, one per level, ascending; a level has (n + 1)^3 nodes.
        log2_size: a level has at most 2^log2_size entries, 0 to 30; with more nodes than that it is hashed.

    Returns:
        first entry of each level, then the number of entries of the table: len(resolutions) + 1 numbers.
    """
    return reference.grid_levels(checked_levels("grid_levels", resolutions, log2_size), log2_size)


def grid_encode(x: Tensor, sigma: Tensor | None, table: Tensor, resolutions: Sequence[int], log2_size: int) -> Tensor:
    """Trilinear features of a multiresolution hash grid (instant-ngp, Mueller et al. 2022), level after level.

    A level with more nodes than 2^log2_size shares entries between nodes: node (x, y, z) has entry
    x + (y * 2654435761 xor z * 805459861) mod 2^log2_size, so that nodes beside each other on x mostly lie beside each
    other in memory. This hash is ours, not the paper's.

    Args:
        x: [M, 3]. What is outside [0, 1] is moved to the border and gets no gradient there. NaN gives NaN.
        sigma: [M], standard deviation of the isotropic Gaussian around x, in the units of x, or None for a point. Level
            l is multiplied by erf(1 / sqrt(8 sigma^2 n_l^2)): our reading of Zip-NeRF (Barron et al. 2023, sec. 3.2),
            for one sample per Gaussian. 0 is a point; the sign does not matter.
        table: [P, F], P = grid_levels(resolutions, log2_size)[-1].
        resolutions, log2_size: see `grid_levels`.

    Returns:
        [M, L * F], the features of level 0 first. Differentiable twice in x, sigma and table (the second time by plain
        torch). The gradient of table does not depend on the number of threads: each entry is summed in the order of M
        on a CPU, in fixed point on a GPU.
    """
    op = "grid_encode"
    given = {} if sigma is None else {"sigma": sigma}
    checks.floating(op, x=x, table=table, **given)
    resolutions = checked_levels(op, resolutions, log2_size)
    if x.dim() != 2 or x.shape[1] != 3:
        raise ValueError(f"{op}: x has shape {checks.shape(x)}, expected [M, 3]")
    if table.dim() != 2:
        raise ValueError(f"{op}: table has shape {checks.shape(table)}, expected [P, F]")
    checks.shaped(op, "table", table, (reference.grid_levels(resolutions, log2_size)[-1], table.shape[1]))
    if sigma is not None:
        checks.shaped(op, "sigma", sigma, (x.shape[0],))
    if kernels_for(x.device.type):
        return torch.ops.medrecon.grid_encode.default(x, sigma, table, resolutions, log2_size)
    return reference.grid_encode(x, sigma, table, resolutions, log2_size)


def checked_levels(op: str, resolutions: Sequence[int], log2_size: int) -> tuple[int, ...]:
    """The resolutions as a tuple, where they and log2_size are as `grid_levels` wants them."""
    resolutions = tuple(int(n) for n in resolutions)
    if len(resolutions) > MOST_LEVELS:
        raise ValueError(f"{op}: resolutions has {len(resolutions)} levels, expected at most {MOST_LEVELS}")
    if any(not 1 <= n <= LARGEST_RESOLUTION for n in resolutions) or list(resolutions) != sorted(resolutions):
        raise ValueError(
            f"{op}: resolutions is {resolutions}, expected ascending numbers from 1 to {LARGEST_RESOLUTION}"
        )
    if not 0 <= log2_size <= LARGEST_LOG2_SIZE:
        raise ValueError(f"{op}: log2_size is {log2_size}, expected 0 to {LARGEST_LOG2_SIZE}")
    return resolutions

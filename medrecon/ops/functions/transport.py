# SPDX-License-Identifier: Apache-2.0
"""Partial assignment by optimal transport."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..backends import kernels_for
from . import checks


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
    checks.floating("log_sinkhorn", scores=scores)
    bin_score = torch.as_tensor(bin_score, dtype=scores.dtype, device=scores.device)
    if scores.dim() != 3:
        raise ValueError(f"log_sinkhorn: scores has shape {checks.shape(scores)}, expected [B, M, N]")
    if bin_score.numel() != 1:
        raise ValueError(f"log_sinkhorn: bin_score has shape {checks.shape(bin_score)}, expected one element")
    if iterations < 0:
        raise ValueError(f"log_sinkhorn: iterations is {iterations}, expected at least 0")
    bin_score = bin_score.reshape(1, 1, 1)
    if kernels_for(scores.device.type):
        return torch.ops.medrecon.log_sinkhorn.default(scores, bin_score, iterations)
    return reference.log_sinkhorn(scores, bin_score, iterations)

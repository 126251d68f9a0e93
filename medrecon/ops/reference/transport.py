# SPDX-License-Identifier: Apache-2.0
"""Optimal transport with a dustbin (SuperGlue, Sarlin et al. 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_sinkhorn(scores: Tensor, bin_score: Tensor, iterations: int) -> Tensor:
    """Optimal transport with a dustbin, in the log domain (SuperGlue eq. 8-10); see functions.log_sinkhorn."""
    batch, m, n = scores.shape
    if m == 0 or n == 0:  # everything goes to the dustbin, whatever the scores
        plan = scores.new_zeros(batch, m + 1, n + 1)
        plan[:, m, n] = -math.inf
        return plan
    corner = bin_score.expand(batch, 1, 1)
    z = torch.cat([torch.cat([scores, corner.expand(batch, m, 1)], 2), corner.expand(batch, 1, n + 1)], 1)
    log_a = torch.cat([scores.new_zeros(m), scores.new_full((1,), math.log(n))])
    log_b = torch.cat([scores.new_zeros(n), scores.new_full((1,), math.log(m))])
    u, v = scores.new_zeros(batch, m + 1), scores.new_zeros(batch, n + 1)
    for _ in range(iterations):
        u = log_a - torch.logsumexp(z + v[:, None, :], 2)
        v = log_b - torch.logsumexp(z + u[:, :, None], 1)
    return z + u[:, :, None] + v[:, None, :]

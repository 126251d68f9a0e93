# SPDX-License-Identifier: Apache-2.0
"""Shapes and gradients of ``log_sinkhorn``."""

from __future__ import annotations

import torch

from ..reference import log_sinkhorn
from .autograd import register


def register_transport() -> None:
    """Registers them."""
    backward = torch.ops.medrecon.log_sinkhorn_backward.default
    register("log_sinkhorn", _fake_log_sinkhorn, backward, log_sinkhorn, 2)


def _fake_log_sinkhorn(scores, bin_score, iterations):
    return scores.new_empty((scores.shape[0], scores.shape[1] + 1, scores.shape[2] + 1))

# SPDX-License-Identifier: Apache-2.0
"""Shapes and gradients of ``log_sinkhorn``."""

from __future__ import annotations

from ..reference import log_sinkhorn
from .autograd import register


def register_transport() -> None:
    """Registers them."""
    register("log_sinkhorn", _fake_log_sinkhorn, log_sinkhorn)


def _fake_log_sinkhorn(scores, bin_score, iterations):
    return scores.new_empty((scores.shape[0], scores.shape[1] + 1, scores.shape[2] + 1))

# SPDX-License-Identifier: Apache-2.0
"""Shapes and gradients of the encodings."""

from __future__ import annotations

import torch

from .. import reference
from .autograd import register


def register_encodings() -> None:
    """Registers them."""
    ops = torch.ops.medrecon
    register(
        "positional_encoding", _encoded, ops.positional_encoding_backward.default, reference.positional_encoding, 1
    )
    register(
        "integrated_positional_encoding",
        lambda mean, var, min_deg, max_deg: _encoded(mean, min_deg, max_deg),
        ops.integrated_positional_encoding_backward.default,
        reference.integrated_positional_encoding,
        2,
    )


def _encoded(x, min_deg, max_deg):
    return x.new_empty((*x.shape[:-1], 2 * x.shape[-1] * (max_deg - min_deg)))

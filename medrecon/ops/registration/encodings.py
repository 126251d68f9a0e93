# SPDX-License-Identifier: Apache-2.0
"""Shapes and gradients of the encodings."""

from __future__ import annotations

from .. import reference
from .autograd import register


def register_encodings() -> None:
    """Registers them."""
    register("positional_encoding", _encoded, reference.positional_encoding)
    register(
        "integrated_positional_encoding",
        lambda mean, var, min_deg, max_deg: _encoded(mean, min_deg, max_deg),
        reference.integrated_positional_encoding,
    )


def _encoded(x, min_deg, max_deg):
    return x.new_empty((*x.shape[:-1], 2 * x.shape[-1] * (max_deg - min_deg)))

# SPDX-License-Identifier: Apache-2.0
"""Shapes and gradients of ``composite_packed``."""

from __future__ import annotations

import torch

from ..reference import composite_packed
from .autograd import register


def register_packed_rendering() -> None:
    """Registers them."""
    register("composite_packed", _fake, _plain)


def _fake(rgb, density, t0, t1, directions, background, offsets, stop):
    rays = directions.shape[0]
    return background.new_empty((rays, 3)), density.new_empty(rays), density.new_empty(rays), torch.empty_like(density)


def _plain(rgb, density, t0, t1, directions, background, offsets, stop):
    return composite_packed(rgb, density, t0, t1, offsets, directions, background, stop)

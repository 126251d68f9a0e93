# SPDX-License-Identifier: Apache-2.0
"""Shapes and gradients of ``composite``, shapes of ``resample`` (which has no gradient)."""

from __future__ import annotations

import torch

from ..reference import composite
from .autograd import register


def register_rendering() -> None:
    """Registers them."""
    register("composite", _fake_composite, composite)
    torch.library.register_fake("medrecon::resample", _fake_resample)


def _fake_composite(rgb, density, t, directions, background):
    rays = density.shape[0]
    return background.new_empty((rays, 3)), density.new_empty(rays), density.new_empty(rays), torch.empty_like(density)


def _fake_resample(t, weights, u, padding):
    return t.new_empty((t.shape[0], u.shape[1]))

# SPDX-License-Identifier: Apache-2.0
"""Shapes and gradients of ``cast_rays``."""

from __future__ import annotations

import torch

from ..reference import cast_rays
from .autograd import register


def register_rays() -> None:
    """Registers them."""
    register("cast_rays", _fake_cast_rays, cast_rays)


def _fake_cast_rays(t, origins, directions, radii):
    mean = t.new_empty((t.shape[0], t.shape[1] - 1, 3))
    return mean, torch.empty_like(mean)

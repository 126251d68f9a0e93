# SPDX-License-Identifier: Apache-2.0
"""Encodings of a ray's direction."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon import ops


def direction_size(degree: int) -> int:
    return 3 + 6 * degree


def encode_direction(directions: Tensor, degree: int) -> Tensor:
    """Unit direction and its positional encoding: [N, 3] -> [N, 3 + 6 * degree] (NeRF section 5.1)."""
    unit = directions / directions.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    if degree == 0:
        return unit
    return torch.cat([unit, ops.positional_encoding(unit, 0, degree)], -1)

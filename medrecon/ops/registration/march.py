# SPDX-License-Identifier: Apache-2.0
"""Shapes of ``march_rays``, whose number of intervals nobody knows before; it has no gradient."""

from __future__ import annotations

import torch


def register_march() -> None:
    """Registers them."""
    torch.library.register_fake("medrecon::march_rays", _fake)


def _fake(origins, directions, near, far, occupancy, resolution, step, cone, jitter, max_samples, contract=False):
    found = torch.library.get_ctx().new_dynamic_size()
    offsets = origins.new_empty((origins.shape[0] + 1,), dtype=torch.int64)
    return (
        offsets,
        origins.new_empty((found,), dtype=torch.int32),
        origins.new_empty((found,)),
        origins.new_empty((found,)),
    )

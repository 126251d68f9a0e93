# SPDX-License-Identifier: Apache-2.0
"""The kernels' typed faces: one call, whether C++, CUDA or plain torch does the work. Needs only torch and numpy."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backends import BackendInfo, backend
    from .functions import (
        LazyAdam,
        Packed,
        cast_rays,
        composite,
        composite_packed,
        fused_field,
        fused_field_loss,
        fused_grid,
        fused_grid_loss,
        grid_encode,
        grid_levels,
        integrated_positional_encoding,
        log_sinkhorn,
        march_rays,
        positional_encoding,
        resample,
    )

__all__ = [
    "BackendInfo",
    "LazyAdam",
    "Packed",
    "backend",
    "cast_rays",
    "composite",
    "composite_packed",
    "fused_field",
    "fused_field_loss",
    "fused_grid",
    "fused_grid_loss",
    "grid_encode",
    "grid_levels",
    "integrated_positional_encoding",
    "log_sinkhorn",
    "march_rays",
    "positional_encoding",
    "resample",
]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(".backends" if name in ("BackendInfo", "backend") else ".functions", __name__)
    globals()[name] = getattr(module, name)
    return globals()[name]

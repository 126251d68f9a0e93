# SPDX-License-Identifier: Apache-2.0
"""File names that carry the unit: nobody takes an unscaled reconstruction for millimetres."""

from __future__ import annotations

from medrecon.types import Scale


def stamped(stem: str, suffix: str, scale: Scale) -> str:
    """ "surface_mm.ply" or "surface_scale-unknown.ply"."""
    return f"{stem}_{'mm' if scale.is_metric else 'scale-unknown'}{suffix}"


def unit_line(scale: Scale) -> str:
    """One line for a file header."""
    if scale.is_metric:
        return f"unit: mm (scale from {scale.source})"
    return "unit: scale unknown (the reconstruction's own unit, not millimetres)"

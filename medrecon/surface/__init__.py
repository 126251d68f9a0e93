# SPDX-License-Identifier: Apache-2.0
"""Surfaces: out of the density of a trained field, cleaned, coloured, and measured."""

from __future__ import annotations

from typing import Any

__all__ = ["extract", "measure_distance", "measure_geometry"]


def __getattr__(name: str) -> Any:
    if name == "extract":
        from medrecon.surface.extraction import extract

        return extract
    if name in ("measure_distance", "measure_geometry"):
        from medrecon.surface import measure

        return getattr(measure, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

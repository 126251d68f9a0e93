# SPDX-License-Identifier: Apache-2.0
"""Structure from motion: verified matches in; poses, sparse points, the funnel and the metric scale out."""

from __future__ import annotations

_PUBLIC = {
    "reconstruct": "medrecon.sfm.reconstruction",
    "ScaleConfig": "medrecon.sfm.scale",
    "PixelObservation": "medrecon.sfm.scale",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)

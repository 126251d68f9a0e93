# SPDX-License-Identifier: Apache-2.0
"""Radiance fields: scenes, renderers, the trainer, rendered views."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medrecon.radiance.field_files import load_field
    from medrecon.radiance.renderer import Renderer
    from medrecon.radiance.rendering import render_views
    from medrecon.radiance.renders import Renders
    from medrecon.radiance.scene import Scene
    from medrecon.radiance.settings import RenderConfig, TrainingConfig

_LAZY = {
    "RenderConfig": "settings",
    "Renderer": "renderer",
    "Renders": "renders",
    "Scene": "scene",
    "TrainingConfig": "settings",
    "load_field": "field_files",
    "render_views": "rendering",
}
__all__ = ["RenderConfig", "Renderer", "Renders", "Scene", "TrainingConfig", "load_field", "render_views"]


def __getattr__(name: str) -> Any:
    """Torch is imported only when something is used. (The trainer is ``medrecon.radiance.train.train``.)"""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)

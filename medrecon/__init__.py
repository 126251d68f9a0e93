# SPDX-License-Identifier: Apache-2.0
"""medrecon: pictures of anatomy in; camera poses, a radiance field, a surface and measurements in millimetres out.

import medrecon
result = medrecon.run(medrecon.load_config("run.yaml"), out="runs/first")
print(result.metrics["reprojection_px"].value)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["MedreconError", "RunConfig", "RunResult", "components", "create", "load_config", "run"]

if TYPE_CHECKING:
    from medrecon.config.run_config import RunConfig, load_config
    from medrecon.errors import MedreconError
    from medrecon.pipeline.run import run
    from medrecon.plugins import Component
    from medrecon.types import RunResult

_LAZY = {
    "MedreconError": "medrecon.errors",
    "RunConfig": "medrecon.config.run_config",
    "RunResult": "medrecon.types.result",
    "load_config": "medrecon.config.run_config",
    "run": "medrecon.pipeline.run",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'medrecon' has no attribute {name!r}")


def components(kind: str | None = None) -> "list[Component]":
    """Every registered component, or those of one kind ("extractor", "matcher", ...)."""
    from medrecon.plugins.manager import plugins

    return plugins().components(kind)


def create(kind: str, name: str, **options: Any) -> Any:
    """A ready component: ``medrecon.create("extractor", "sift", max_keypoints=1000)``.

    Raises:
        ConfigError: no such component, or options it does not take.
        PluginError: the component's own code fails.
    """
    from medrecon.plugins.manager import plugins

    return plugins().create(kind, name, **options)

# SPDX-License-Identifier: Apache-2.0
"""What can be trained from shards, by name: its settings and the function that trains."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

KINDS = {"superpoint": "SuperpointSettings", "superglue": "SuperglueSettings"}


def settings_class(kind: str) -> type:
    """Frozen dataclass of a kind's settings; its defaults are the recipe for a GPU."""
    return getattr(importlib.import_module(f"medrecon.training.{kind}"), KINDS[kind])


def runner(kind: str) -> Callable[..., dict[str, Any]]:
    """``run(settings, schedule, data, out, device, say) -> summary`` of a kind."""
    return importlib.import_module(f"medrecon.training.{kind}").run

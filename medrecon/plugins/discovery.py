# SPDX-License-Identifier: Apache-2.0
"""Finds plugins: installed packages, and modules named in an environment variable."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from medrecon.plugins.hookspecs import PROJECT

ENVIRONMENT = "MEDRECON_PLUGINS"


def discover() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """(plugin name, package and version, loader) of every plugin; nothing is imported before its loader is called."""
    for ep in metadata.entry_points(group=PROJECT):
        dist = f"{ep.dist.name} {ep.dist.version}" if ep.dist else "unknown package"
        yield ep.name, dist, ep.load
    for target in filter(None, (t.strip() for t in os.environ.get(ENVIRONMENT, "").split(","))):
        yield target, f"{ENVIRONMENT} ({target})", lambda target=target: _load(target)


def _load(target: str) -> Any:
    """Of "module" or "module:attribute": for development, without installing."""
    module, _, attribute = target.partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found

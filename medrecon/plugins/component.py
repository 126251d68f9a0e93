# SPDX-License-Identifier: Apache-2.0
"""What a plugin registers: a component's name and where to find it, without importing it."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any

from medrecon.errors import PluginError

KINDS = (
    "source", "keyframer", "extractor", "pairing", "matcher", "mapper", "renderer", "mesher", "exporter", "analysis",
    "metric", "benchmark",
)  # fmt: skip

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*\Z")
_IMPORT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


@dataclass(frozen=True, slots=True)
class Component:
    """One interchangeable part.

    Attributes:
        kind: one of ``KINDS``.
        name: what users write in YAML: lower case, digits, dashes.
        factory: "package.module:Class"; called as ``Class(config)``.
        config: "package.module:ConfigModel", a pydantic model (``medrecon.config.ComponentConfig``).
        summary: one line for ``medrecon plugins list``.
        license: SPDX expression of the code *and* of any weights it needs.
        accepts: matchers only: names of the extractors whose features it takes; ("*",) takes any.
        version: part of the stage's cache key; raise it when the output changes.
    """

    kind: str
    name: str
    factory: str
    config: str
    summary: str
    license: str = "Apache-2.0"
    accepts: tuple[str, ...] = ("*",)
    version: int = 1

    def validate(self) -> "Component":
        if self.kind not in KINDS:
            raise PluginError(f"component {self.name!r}: kind {self.kind!r} is not known", f"one of {', '.join(KINDS)}")
        if not _NAME.match(self.name):
            raise PluginError(f"component name {self.name!r} must be lower case letters, digits and dashes")
        for key in ("factory", "config"):
            if not isinstance(getattr(self, key), str) or not _IMPORT.match(getattr(self, key)):
                raise PluginError(
                    f"{self.kind} {self.name!r}: {key} {getattr(self, key)!r} is not an import string",
                    "write it as 'package.module:Name'",
                )
        if not self.summary:
            raise PluginError(f"{self.kind} {self.name!r} has no summary", "say in one line what it does")
        return self

    def load_factory(self) -> Any:
        return self._load(self.factory)

    def load_config(self) -> Any:
        return self._load(self.config)

    def _load(self, target: str) -> Any:
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as e:
            raise PluginError(
                f"{self.kind} {self.name!r} cannot be loaded from {target!r}: {type(e).__name__}: {e}",
                "reinstall the package that provides it, or see `medrecon plugins check`",
            ) from e

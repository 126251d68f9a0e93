# SPDX-License-Identifier: Apache-2.0
"""Turns pydantic's errors into one message that names the key, the place in the file and the likely meaning."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from medrecon.errors import ConfigError


def validate_options(model: type[BaseModel], options: dict[str, Any], where: str, lines: Any = None) -> BaseModel:
    """``options`` as a validated ``model``.

    Args:
        where: what the options belong to, for the message ("matching", "matcher nearest-neighbour").
        lines: maps a tuple of keys below ``where`` to "file:line", or None.
    Raises:
        ConfigError: naming every wrong key.
    """
    if not isinstance(options, dict):
        raise ConfigError(
            f"{where} must be a mapping of options, got {type(options).__name__}", "write 'key: value' lines"
        )
    try:
        return model.model_validate(options)
    except ValidationError as e:
        known = sorted({f.alias or n for n, f in model.model_fields.items()})
        causes, remedies = [], []
        for error in e.errors(include_url=False):
            path = tuple(str(p) for p in error["loc"])
            key = ".".join(path)
            place = f"{lines(path)}: " if lines and lines(path) else ""
            if error["type"] == "extra_forbidden":
                near = difflib.get_close_matches(path[-1], known, 1)
                causes.append(f"{place}{where}: unknown key {key!r}")
                remedies.append(f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known) or 'none'}")
            elif error["type"] == "missing":
                causes.append(f"{place}{where}: the key {key!r} is required")
                field = model.model_fields.get(path[0])
                remedies.append(f"{key}: {field.description}" if field and field.description else f"set {key}")
            else:
                shown = repr(error["input"])
                shown = shown if len(shown) < 60 else shown[:57] + "..."
                causes.append(f"{place}{where}.{key}: {error['msg']} (got {shown})")
                field = model.model_fields.get(path[0]) if path else None
                remedies.append(f"{key}: {field.description}" if field and field.description else "")
        raise ConfigError("; ".join(causes), "; ".join(r for r in dict.fromkeys(remedies) if r)) from None

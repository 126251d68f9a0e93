# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of a configuration file, for editors: it completes and checks what the installed plugins take."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from medrecon.config import front_ends
from medrecon.config.run_config import COMPONENT_SECTIONS, FIXED_SECTIONS, LIST_SECTIONS, RunOptions, fixed_model


def json_schema() -> dict[str, Any]:
    """JSON Schema of a configuration file for the installed set of plugins."""
    from medrecon.plugins.manager import plugins

    registry, definitions = plugins(), {}

    def reference(key: str, model: type[BaseModel]) -> dict[str, Any]:
        schema = model.model_json_schema(ref_template=f"#/$defs/{key}.{{model}}")
        for inner, sub in schema.pop("$defs", {}).items():
            definitions[f"{key}.{inner}"] = sub
        return schema

    properties = dict(RunOptions.model_json_schema()["properties"])
    properties[front_ends.SECTION] = front_ends.json_schema()
    for key, (kind, default) in COMPONENT_SECTIONS.items():
        choices = []
        for c in registry.components(kind):
            schema = reference(f"{key}.{c.name}", c.load_config())
            schema["properties"] = {"name": {"const": c.name, "description": c.summary}, **schema.get("properties", {})}
            if c.name != default:
                schema["required"] = [*schema.get("required", []), "name"]
            choices.append(schema)
        properties[key] = {"oneOf": choices}
    for key in FIXED_SECTIONS:
        properties[key] = reference(key, fixed_model(key))
    for key, (kind, _) in LIST_SECTIONS.items():
        each = {
            c.name: {"anyOf": [{"type": "null"}, reference(f"{key}.{c.name}", c.load_config())]}
            for c in registry.components(kind)
        }
        properties[key] = {
            "anyOf": [
                {"type": "array", "items": {"enum": list(each)}},
                {"type": "object", "properties": each, "additionalProperties": False},
            ]
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "medrecon run",
        "type": "object",
        "properties": properties,
        "required": ["source"],
        "additionalProperties": False,
        "$defs": definitions,
    }

# SPDX-License-Identifier: Apache-2.0
"""YAML as data and nothing else: no tags, no aliases, no duplicate keys; remembers the line of every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from medrecon.errors import ConfigError

MAX_BYTES = 1_000_000


class _DataLoader(yaml.SafeLoader):
    """SafeLoader that records lines and refuses duplicate keys and aliases."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self.lines: dict[tuple[str, ...], int] = {}

    def compose_node(self, parent, index):
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not allowed", event.start_mark)
        return super().compose_node(parent, index)


def _note_lines(loader: _DataLoader, node: yaml.Node, path: tuple[str, ...]) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "keys must be plain words", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
            seen.add(key.value)
            loader.lines[(*path, key.value)] = key.start_mark.line + 1
            _note_lines(loader, value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _note_lines(loader, item, (*path, str(i)))


def parse(text: str, name: str) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """YAML text -> (mapping, line number by path of keys).  Raises ConfigError naming ``name`` and the line."""
    loader = None
    try:
        loader = _DataLoader(text)
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        _note_lines(loader, node, ())
        data = loader.construct_document(node)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(
            f"{where}: {e.problem or e.context}", "a configuration is plain data: see docs/config.md"
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        raise ConfigError(f"{name} is not valid YAML: {str(e) or type(e).__name__}", "see docs/config.md") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(data, dict):
        raise ConfigError(f"{name} must hold 'key: value' lines, got {type(data).__name__}", "see docs/config.md")
    return data, loader.lines


def read(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """A YAML file as ``parse`` gives it."""
    try:
        raw = Path(path).read_bytes() if Path(path).stat().st_size <= MAX_BYTES else None
    except OSError as e:
        raise ConfigError(f"{path} cannot be read: {e.strerror or e}", "check the path of the configuration") from None
    if raw is None:
        raise ConfigError(f"{path} is larger than {MAX_BYTES} bytes", "is it a configuration at all?")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", "is it a configuration at all?") from None
    return parse(text, str(path))

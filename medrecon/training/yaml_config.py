# SPDX-License-Identifier: Apache-2.0
"""Settings of a training from YAML: recipe, file and ``--set key=value`` are merged and checked key by key.

The settings themselves are plain dataclasses, which a machine with torch and numpy alone can use too. A file has a
section for each kind of training, so that one file describes a detector and the matcher that learns from it:

    version: 1
    recipe: cpu
    superpoint: {batch: 4, schedule: {minutes: 30}}
    superglue: {layers: 6}
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from medrecon.config import yaml_file
from medrecon.config.run_config import merge, parse_override
from medrecon.errors import ConfigError
from medrecon.training.settings import Schedule, override

RECIPES = Path(__file__).parent / "recipes"
SECTIONS = ("superpoint", "superglue", "adapt")
VERSION = 1

T = TypeVar("T")


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(p.stem for p in RECIPES.glob("*.yaml"))


def load_settings(
    kind: type[T],
    section: str,
    file: Path | None = None,
    recipe: str | None = None,
    overrides: Iterable[str] = (),
    schedule: Schedule | None = None,
    steps: int | None = None,
    minutes: float | None = None,
) -> tuple[T, Schedule]:
    """Settings of one training, and its length.

    Args:
        kind: the dataclass of the settings; what no one sets has its default.
        section: key of the file and of the recipe that holds them, one of ``SECTIONS``; its key ``schedule`` holds the
            schedule's.
        file: YAML file, or None.
        recipe: name of a recipe to start from; None: the one that the file names, else the defaults.
        overrides: "key=value" or "part.key=value" below the section, applied last.
        schedule: what is not set of the schedule is as here.
        steps, minutes: at most one of them; takes the place of either in the file.

    Raises:
        ConfigError: for anything unknown, misspelt, duplicated or of another type, naming file, line and key.
    """
    data, lines, name = {}, {}, "--set"
    if file is not None:
        data, lines = yaml_file.read(file)
        name = str(file)
        _check_top(data, name)
    recipe = recipe or data.get("recipe")
    given = _section(data, section, name)
    if recipe is not None:
        given = _merged(_section(_recipe(recipe), section, f"recipe {recipe}"), given)
    overrides = list(overrides)
    for text in (t for t in overrides if t.startswith("schedule.")):
        given = _merged(given, parse_override(text))
    if steps is not None or minutes is not None:
        given = _merged(given, {"schedule": {"steps": steps, "minutes": minutes}})
    length = given.pop("schedule", None)

    def place(*prefix: str):
        return lambda path: _place(name, lines.get((section, *prefix, *path)))

    if length is not None and not isinstance(length, Mapping):
        raise ConfigError(f"{place()(('schedule',))}{section}.schedule must be a mapping", "schedule: {minutes: 10}")
    start = {f.name: getattr(schedule, f.name) for f in fields(Schedule)} if schedule else {}
    whole = {**start, **_one_length(length or {})}
    settings = build(kind, given, section, place())
    # Read as ``python -m medrecon.training`` reads them, which has no YAML.
    settings = override(settings, (t for t in overrides if not t.startswith("schedule.")))
    return settings, build(Schedule, whole, f"{section}.schedule", place("schedule"))


def source_options(overrides: Iterable[str]) -> dict[str, Any]:
    """ "key=value" texts as options of a source.  Raises ConfigError naming the text."""
    out: dict[str, Any] = {}
    for text in overrides:
        out = merge(out, parse_override(text))
    return out


def _one_length(given: Mapping[str, Any]) -> dict[str, Any]:
    """Who gives steps wants no minutes, and the other way round."""
    other = {"steps": "minutes", "minutes": "steps"}
    return {**{o: None for k, o in other.items() if given.get(k) is not None and given.get(o) is None}, **given}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``; of two lengths of a training the one on top stays."""
    if isinstance(over.get("schedule"), Mapping):
        over = {**over, "schedule": _one_length(over["schedule"])}
    return merge(base, over)


def build(kind: type[T], given: Mapping[str, Any], where: str, place=lambda path: "") -> T:
    """``given`` as the dataclass ``kind``.

    Args:
        where: what the values belong to, for the message ("superpoint").
        place: maps a tuple of keys below ``where`` to "file:line: ", or "".

    Raises:
        ConfigError: unknown keys, values of another type, or what the dataclass itself refuses.
    """
    _refuse_unknown(kind, given, where, (), place)
    try:
        return _adapter(kind).validate_python(dict(given))
    except ValidationError as e:
        causes = []
        for error in e.errors(include_url=False):
            path = tuple(str(p) for p in error["loc"])
            shown = repr(error["input"])
            got = f" (got {shown})" if path and len(shown) < 60 else ""
            causes.append(f"{place(path)}{'.'.join((where, *path))}: {error['msg']}{got}")
        raise ConfigError(
            "; ".join(causes), f"`medrecon train settings {where.partition('.')[0]}` prints every key"
        ) from None


@cache
def _adapter(kind: type) -> TypeAdapter:
    return TypeAdapter(kind)


def _refuse_unknown(kind: type, given: Any, where: str, path: tuple[str, ...], place) -> None:
    """Dataclasses of the standard library cannot forbid extra keys, and pydantic drops them in silence."""
    if not isinstance(given, Mapping):
        return  # of another type: pydantic says so
    inner = get_type_hints(kind)
    known = [f.name for f in fields(kind) if f.init]
    for key, value in given.items():
        here = (*path, str(key))
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            raise ConfigError(
                f"{place(here)}{where}: unknown key {'.'.join(here)!r}",
                f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}",
            )
        for part in _dataclasses_in(inner[key]):
            _refuse_unknown(part, value, where, here, place)


def _dataclasses_in(hint: Any) -> list[type]:
    """The dataclass that a field holds, also where it may be None."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [o for o in options if is_dataclass(o)]


def _check_top(data: Mapping[str, Any], name: str) -> None:
    known = ("version", "recipe", *SECTIONS)
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"sections: {', '.join(SECTIONS)}"
            raise ConfigError(f"{name}: unknown section {key!r}", hint)
    if data.get("version", VERSION) != VERSION:
        raise ConfigError(f"{name}: version {data['version']!r}, this medrecon reads {VERSION}", "version: 1")


def _section(data: Mapping[str, Any], section: str, name: str) -> dict[str, Any]:
    value = data.get(section)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{name}: section {section!r} must be a mapping, got {type(value).__name__}",
            f"write the settings of {section} as indented lines below it",
        )
    return dict(value)


def _recipe(name: Any) -> dict[str, Any]:
    if name not in recipe_names():
        near = difflib.get_close_matches(str(name), recipe_names(), 1)
        raise ConfigError(
            f"there is no recipe {name!r}",
            (f"did you mean {near[0]!r}? " if near else "") + f"there are: {', '.join(recipe_names())}",
        )
    data, _ = yaml_file.read(RECIPES / f"{name}.yaml")
    _check_top(data, f"recipe {name}")
    return data


def _place(name: str, line: int | None) -> str:
    return f"{name}:{line}: " if line else ""

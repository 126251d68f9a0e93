# SPDX-License-Identifier: Apache-2.0
"""Chooses extractor and matcher where a run leaves them open: the first alternative whose parts are all there.

``front_ends:`` is a list of alternatives, best first. Each is a mapping of the sections it decides (``features`` and
``matching``, if wanted ``pairing``), every one with its ``name``. An alternative can be used when its components are
installed, their weights have been fetched and the licences of those are accepted; one with experimental weights only
when it is asked for by its title (``front_end:``), "extractor+matcher" unless it has a ``title``. The choice is made
when the configuration is loaded; a resolved configuration names its components and holds no alternatives any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medrecon.config.validation import validate_options
from medrecon.errors import ConfigError, MedreconError

SECTION = "front_ends"
DECIDES = ("features", "matching", "pairing")
TITLE = "title"
REQUIRED = ("features", "matching")


@dataclass(frozen=True, slots=True)
class FrontEndChoice:
    """What was chosen, and why nothing better was.

    Attributes:
        chosen: "superpoint+superglue".
        passed_over: (alternative, reason, remedy) of every better alternative that cannot be used here.
    """

    chosen: str
    passed_over: tuple[tuple[str, str, str], ...]

    def lines(self) -> list[str]:
        """For people: the choice, then a line per alternative that was passed over."""
        reasons = [
            f"  not {name}: {why}" + (f" ({remedy})" if remedy else "") for name, why, remedy in self.passed_over
        ]
        best = ", the best that is installed, fetched and permitted" if reasons else ""
        return [f"features and matches: {self.chosen}{best}", *reasons]

    def to_dict(self) -> dict[str, Any]:
        passed_over = [{"name": n, "reason": why, "remedy": remedy} for n, why, remedy in self.passed_over]
        return {"chosen": self.chosen, "passed_over": passed_over}


def choose(
    alternatives: Any, given: Mapping[str, Any], wanted: str | None, accepted: tuple[str, ...], registry, where: str
) -> tuple[dict[str, dict[str, Any]], FrontEndChoice | None]:
    """Sections of the best usable alternative, to be put below what the run itself says.

    Args:
        alternatives: value of ``front_ends``; None or an empty list decides nothing.
        given: the run's own sections. One that names its extractor or matcher has chosen for itself.
        wanted: "superpoint+superglue": this one or none; None takes the first that can be used.
        accepted: licences accepted by the run.
        registry: ``medrecon.plugins.manager.Plugins``.
        where: file name, for messages.

    Raises:
        ConfigError: the list is malformed, or not one alternative can be used, or not the one wanted.
    """
    checked = [(_title(a), a) for a in _checked(alternatives, where)]
    named = [k for k in REQUIRED if isinstance(given.get(k), Mapping) and "name" in given[k]]
    if wanted is not None:
        titles = [title for title, _ in checked]
        if named or wanted not in titles:
            why = f"the run names {named[0]} itself" if named else f"there are: {', '.join(titles) or 'none'}"
            raise ConfigError(
                f"{where}: front_end {wanted!r} is no alternative of this run ({why})",
                f"name both parts instead: -o {REQUIRED[0]}.name=... -o {REQUIRED[1]}.name=...",
            )
        checked = [(title, alternative) for title, alternative in checked if title == wanted]
    if named or not checked:
        return {}, None
    passed_over = []
    for title, alternative in checked:
        obstacle = _obstacle(alternative, accepted, registry, by_title=wanted is not None)
        if obstacle is None:
            return {k: alternative[k] for k in DECIDES if k in alternative}, FrontEndChoice(title, tuple(passed_over))
        passed_over.append((title, *obstacle))
    reasons = "; ".join(f"{title}: {why}" for title, why, _ in passed_over)
    raise ConfigError(
        f"{where}: no alternative of {SECTION!r} can be used ({reasons})",
        next((remedy for *_, remedy in passed_over if remedy), "name features and matching yourself"),
    )


def _title(alternative: Mapping[str, Any]) -> str:
    return alternative.get("title") or f"{alternative['features']['name']}+{alternative['matching']['name']}"


def _checked(alternatives: Any, where: str) -> list[dict[str, dict[str, Any]]]:
    remedy = "write a list of mappings: [{features: {name: sift}, matching: {name: nearest-neighbour}}]"
    if alternatives is None:
        return []
    if not isinstance(alternatives, list):
        raise ConfigError(f"{where}: {SECTION!r} must be a list of alternatives, got {alternatives!r}", remedy)
    for i, alternative in enumerate(alternatives, 1):
        place = f"{where}: {SECTION} number {i}"
        if not isinstance(alternative, Mapping) or not set(REQUIRED) <= set(alternative) <= {*DECIDES, TITLE}:
            raise ConfigError(f"{place} must have the keys features and matching, and may have pairing, title", remedy)
        if not isinstance(alternative.get(TITLE, ""), str):
            raise ConfigError(f"{place}: title must be text, got {alternative[TITLE]!r}", remedy)
        for key, section in alternative.items():
            if key == TITLE:
                continue
            if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
                raise ConfigError(f"{place}: {key} must be a mapping with a name, got {section!r}", remedy)
    return [{k: s if k == TITLE else dict(s) for k, s in a.items()} for a in alternatives]


def _obstacle(alternative, accepted: tuple[str, ...], registry, by_title: bool) -> tuple[str, str] | None:
    """(reason, remedy) why an alternative cannot be used; None when it can.  Raises ConfigError for bad options.

    Args:
        by_title: it was asked for, which is what experimental weights need.
    """
    from medrecon.assets import asset, fetch_command, obstacle

    kinds = {"features": "extractor", "matching": "matcher", "pairing": "pairing"}
    needed: list[str] = []
    for key in (k for k in DECIDES if k in alternative):
        options = dict(alternative[key])
        name = options.pop("name")
        if name not in {c.name for c in registry.components(kinds[key])}:
            return f"no {kinds[key]} named {name!r} is installed", "see docs/plugins/gallery.md"
        component = registry.component(kinds[key], name)
        try:
            model = component.load_config()
        except MedreconError as e:
            return e.cause, e.remedy
        needed += validate_options(model, options, f"{SECTION}: {key} {name}").assets()
    found = [why for name in dict.fromkeys(needed) if (why := obstacle(name, accepted))]
    if found:
        return found[0], fetch_command(dict.fromkeys(needed))
    doubtful = [name for name in needed if asset(name).experimental]
    if doubtful and not by_title:
        return f"{doubtful[0]} is experimental", f"-o front_end={_title(alternative)} chooses it all the same"
    return None


def json_schema() -> dict[str, Any]:
    """JSON Schema of the list."""
    named = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    return {
        "description": "alternatives, best first, for a run that names no extractor and matcher",
        "type": "array",
        "items": {
            "type": "object",
            "properties": {TITLE: {"type": "string"}, **dict.fromkeys(DECIDES, named)},
            "required": list(REQUIRED),
            "additionalProperties": False,
        },
    }

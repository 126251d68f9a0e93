# SPDX-License-Identifier: Apache-2.0
"""Front ends: an extractor with a matcher, with options and a keypoint budget; and why one cannot be run here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medrecon.config.run_config import Section, check_accepts, merge, parse_override
from medrecon.config.validation import validate_options
from medrecon.errors import AssetError, ConfigError, PluginError, StageError
from medrecon.progress import Progress

KNOWN = (
    "sift+nearest-neighbour",
    "surf+nearest-neighbour",
    "orb+nearest-neighbour",
    "superpoint+nearest-neighbour",
    "superpoint[detector=sift]+nearest-neighbour",
    "superpoint[detector=shi-tomasi]+nearest-neighbour",
    "superpoint+superglue-outdoor",
    "superpoint+superglue-indoor",
    "disk+lightglue",
    "aliked+lightglue",
    "xfeat+nearest-neighbour",
    "xfeat+lighterglue",
)
OURS = "superpoint-medrecon+superglue-medrecon"  # known where the release ships the weights
SHORT = {
    OURS: "superpoint[weights=superpoint-medrecon]+superglue[weights=superglue-medrecon]",
    "superpoint+superglue-outdoor": "superpoint+superglue[weights=superglue-outdoor]",
    "superpoint+superglue-indoor": "superpoint+superglue[weights=superglue-indoor]",
    "disk+lightglue": "disk+lightglue[weights=lightglue-disk]",
    "aliked+lightglue": "aliked+lightglue[weights=lightglue-aliked]",
}
_COMPONENT = r"([^+\[\],\s]+)(?:\[([^\[\]]*)\])?"
_METHOD = re.compile(rf"{_COMPONENT}\+{_COMPONENT}")
# The budget is what limits every extractor: on smooth tissue these find too few points with their own thresholds.
LOW_THRESHOLDS = {
    "sift": {"contrast_threshold": 0.01},
    "superpoint": {"threshold": 0.0005},
    "aliked": {"threshold": 0.02},
}
QUICK = ("sift+nearest-neighbour", "orb+nearest-neighbour")
_LIGHTGLUE, _XFEAT = "./plugins/medrecon-lightglue", "./plugins/medrecon-lightglue ./plugins/medrecon-xfeat"
PACKAGES = {"disk": _LIGHTGLUE, "aliked": _LIGHTGLUE, "lightglue": _LIGHTGLUE, "xfeat": _XFEAT, "lighterglue": _XFEAT}
BUDGET_OPTION = "max_keypoints"


@dataclass(frozen=True, slots=True)
class Method:
    """A front end as a benchmark knows it.

    Attributes:
        name: "extractor+matcher" of the tables, with the options by which it differs from another method.
        extractor, matcher: component names.
        extractor_options, matcher_options: what differs from their defaults, the keypoint budget included.
    """

    name: str
    extractor: str
    matcher: str
    extractor_options: dict[str, Any] = field(default_factory=dict)
    matcher_options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in Method.__slots__}


@dataclass(frozen=True, slots=True)
class Skipped:
    """A method that cannot be run here."""

    name: str
    reason: str
    command: str


def parse(names: tuple[str, ...], budget: int, options: Mapping[str, Mapping[str, Any]]) -> list[Method]:
    """Methods by name.

    Args:
        names: "extractor+matcher", each with options of its own if need be, "superpoint[detector=sift]+superglue", or
            a name of ``SHORT``; () takes all of ``KNOWN``, and ``OURS`` where its weights ship.
        budget: keypoints per picture, the same for everyone.
        options: by component name: {"sift": {"contrast_threshold": 0.02}}; what a method's own name says goes before.

    Raises:
        ConfigError: a name that is not of that form, or given twice.
    """
    methods = []
    for name in names or (*KNOWN, *([OURS] if ships_weights() else ())):
        extractor, own_extractor, matcher, own_matcher = _split(SHORT.get(name, name))
        extractor_options = {**LOW_THRESHOLDS.get(extractor, {}), BUDGET_OPTION: budget}
        extractor_options = merge(merge(extractor_options, options.get(extractor, {})), own_extractor)
        matcher_options = merge(options.get(matcher, {}), own_matcher)
        methods.append(Method(_shown(name), extractor, matcher, extractor_options, matcher_options))
    if len({m.name for m in methods}) != len(methods):
        raise ConfigError("a method is named twice", "name each once")
    unused = set(options) - {c for m in methods for c in (m.extractor, m.matcher)}
    if unused:
        raise ConfigError(f"options for {', '.join(sorted(unused))}, which no method uses", "see `medrecon bench list`")
    return methods


def _split(name: str) -> tuple[str, dict[str, Any], str, dict[str, Any]]:
    """ "superpoint[detector=sift]+superglue" -> ("superpoint", {"detector": "sift"}, "superglue", {})."""
    found = _METHOD.fullmatch(name)
    if not found:
        raise ConfigError(
            f"method {name!r} is not extractor+matcher",
            f"such as {', '.join(KNOWN)}, or with options as in [key=value]",
        )
    extractor, first, matcher, second = found.groups()
    return extractor, _own_options(first, name), matcher, _own_options(second, name)


def _own_options(text: str | None, name: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for part in filter(str.strip, (text or "").split(",")):
        if "=" not in part:
            raise ConfigError(
                f"{part.strip()!r} in the method {name!r} is no option", "such as superpoint[detector=sift]"
            )
        out = merge(out, parse_override(part))
    return out


def _shown(name: str) -> str:
    """The name as results give it: of a file its name, not its folder."""
    return re.sub(r"(?<==)[^,\[\]]*/[^,\[\]]*", lambda value: Path(value[0]).name, name)


def split_names(text: str) -> tuple[str, ...]:
    """Names of methods with commas between them; those within brackets belong to the options."""
    return tuple(n.strip() for n in re.findall(r"(?:\[[^\]]*\]?|[^,\[])+", text) if n.strip())


def extractor_name(method: str) -> str:
    """ "superpoint[detector=sift]" of "superpoint[detector=sift]+superglue"."""
    return method[: _METHOD.fullmatch(method).start(3) - 1]


def ships_weights() -> bool:
    """Whether this release has weights of its own for both parts of ``OURS``."""
    from medrecon.assets import entries
    from medrecon.assets.shipped import NETWORKS

    return set(NETWORKS) <= {entry.name for entry in entries("weights")}


def sections(method: Method) -> tuple[Section, Section]:
    """Extractor and matcher with validated options.  Raises ConfigError (unknown component or option)."""
    from medrecon.plugins.manager import plugins

    made = []
    for kind, name, options in (
        ("extractor", method.extractor, method.extractor_options),
        ("matcher", method.matcher, method.matcher_options),
    ):
        component = plugins().component(kind, name)
        made.append(Section(component, validate_options(component.load_config(), options, f"{kind} {name}")))
    check_accepts(*made)
    return made[0], made[1]


def available(method: Method) -> Skipped | None:
    """None when the method can be run here, else why not and the command that mends it.

    Raises:
        ConfigError: options that the components do not take.
    """
    from medrecon.assets import fetch_command, obstacle
    from medrecon.pipeline.weights import assets_of
    from medrecon.plugins.manager import plugins

    here = {(c.kind, c.name) for c in plugins().components()}
    for kind, name in (("extractor", method.extractor), ("matcher", method.matcher)):
        if (kind, name) not in here:
            package = PACKAGES.get(name)
            command = f"pip install {package}" if package else "medrecon plugins list"
            return Skipped(method.name, f"{kind} {name!r} is not installed", command)
    try:
        parts = sections(method)
        needed = dict.fromkeys(name for part in parts for name in assets_of(part))
        missing = [why for name in needed if (why := obstacle(name, verify=True))]
    except (PluginError, AssetError) as e:
        return Skipped(method.name, e.cause, e.remedy)
    return Skipped(method.name, missing[0], fetch_command(needed)) if missing else None


def left_out(methods: list[Method], progress: Progress) -> dict[str, Skipped]:
    """The methods that cannot be run here, by name; said as they are found.  Raises StageError when none can."""
    skipped = {m.name: s for m in methods if (s := available(m))}
    for s in skipped.values():
        progress.say(f"{s.name} is left out: {s.reason}; {s.command}")
    if len(skipped) == len(methods):
        first = next(iter(skipped.values()))
        raise StageError(f"no method can be run: {first.name}: {first.reason}", first.command)
    return skipped


def component_key(section: Section) -> str:
    """sha256 of what decides a component's output: options, weights by content, version, and who provides it."""
    from medrecon.pipeline.cache import section_facts
    from medrecon.plugins.manager import plugins

    facts = {**section_facts(section), "__owner__": plugins().owner(section.component)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def licences(*parts: Section) -> str:
    """What components say of the licences of their code and weights, each once."""
    return ", ".join(dict.fromkeys(p.component.license for p in parts))

# SPDX-License-Identifier: Apache-2.0
"""One YAML file is one run: preset, file and overrides are merged, then every section is validated by its owner."""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from medrecon.config import front_ends, yaml_file
from medrecon.config.validation import validate_options
from medrecon.errors import ConfigError
from medrecon.networks.device import Device
from medrecon.plugins.component import Component

PRESETS = Path(__file__).parent / "presets"

# section -> kind of component that `name:` picks, with the default name (None: must be given).
COMPONENT_SECTIONS: dict[str, tuple[str, str | None]] = {
    "source": ("source", None),
    "keyframes": ("keyframer", "quality"),
    "features": ("extractor", "sift"),
    "pairing": ("pairing", "exhaustive"),
    "matching": ("matcher", "nearest-neighbour"),
    "sfm": ("mapper", "incremental"),
    "radiance": ("renderer", "mipnerf"),
    "surface": ("mesher", "marching-cubes"),
}
# section -> options model of a stage that has only one implementation.
FIXED_SECTIONS: dict[str, str] = {
    "masks": "medrecon.ingest.masks:MaskConfig",
    "modality": "medrecon.ingest.modality:ModalityConfig",
    "verification": "medrecon.matching.verification:VerificationConfig",
    "scale": "medrecon.sfm.scale:ScaleConfig",
    "training": "medrecon.radiance.settings:TrainingConfig",
    "render": "medrecon.radiance.settings:RenderConfig",
}
# section -> kind; a mapping from component name to its options, every one of which runs.
LIST_SECTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "analysis": ("analysis", ("geometry", "image-quality", "floaters", "truth")),
    "export": ("exporter", ("ply",)),
}


class RunOptions(BaseModel):
    """Keys at the top of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1] = Field(1, description="version of this format; always 1")
    preset: str | None = Field(None, description="starting point: one of `medrecon config presets`")
    name: str = Field(
        "run", pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$", description="title of the report; no patient data"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="the same seed gives the same result on the same machine")
    device: Device = Field("auto", description="where networks match and the radiance field is trained")
    accept_licenses: tuple[str, ...] = Field(
        (),
        description="licences of weights that you have read and accept, e.g. [magicleap]; see `medrecon weights list`",
    )
    front_end: str | None = Field(
        None, description="take this alternative of front_ends, such as superpoint+superglue; null: the first usable"
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0 = all cores. Results may depend on it")


@dataclass(frozen=True, slots=True)
class Section:
    """A section after validation.

    Attributes:
        component: the component it picked, None where a stage has one implementation.
        options: validated options.
    """

    component: Component | None
    options: BaseModel

    def to_dict(self) -> dict[str, Any]:
        data = json.loads(self.options.model_dump_json())
        return {"name": self.component.name, **data} if self.component else data

    def settled(self) -> Section:
        """With what the component's weights decide (``ComponentConfig.settled``)."""
        # A plugin's model need not derive from ours.
        return replace(self, options=getattr(self.options, "settled", lambda: self.options)())


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A run, completely resolved.

    Attributes:
        options: the keys at the top.
        sections: one ``Section`` per key of COMPONENT_SECTIONS and FIXED_SECTIONS.
        lists: for "analysis" and "export": sections in the order they run.
        choice: how extractor and matcher were chosen, None where the run names them.
    """

    options: RunOptions
    sections: dict[str, Section]
    lists: dict[str, tuple[Section, ...]]
    choice: front_ends.FrontEndChoice | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data that ``load_config`` reads back to the same run."""
        data = {
            k: v for k, v in self.options.model_dump().items() if v is not None and k not in ("preset", "front_end")
        }
        data.update({k: s.to_dict() for k, s in self.sections.items()})
        for key, sections in self.lists.items():
            data[key] = {s.component.name: {k: v for k, v in s.to_dict().items() if k != "name"} for s in sections}
        return data

    def settled(self) -> RunConfig:
        """With every section ``settled``."""
        lists = {key: tuple(s.settled() for s in sections) for key, sections in self.lists.items()}
        return replace(self, sections={key: s.settled() for key, s in self.sections.items()}, lists=lists)


def preset_names() -> list[str]:
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def _load_preset(name: Any) -> dict[str, Any]:
    if not isinstance(name, str) or name not in preset_names():
        near = difflib.get_close_matches(str(name), preset_names(), 1)
        raise ConfigError(
            f"there is no preset {name!r}",
            (f"did you mean {near[0]!r}? " if near else "") + f"there are: {', '.join(preset_names())}",
        )
    data, _ = yaml_file.read(PRESETS / f"{name}.yaml")
    if "preset" in data:
        raise ConfigError(f"preset {name!r} names another preset", "presets are one level deep")
    return data


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``. A section that picks another component starts from that component's defaults."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            if key in COMPONENT_SECTIONS:
                default = COMPONENT_SECTIONS[key][1]
                if "name" in value and value["name"] != old.get("name", default):
                    old = {}
            out[key] = merge(old, value)
        else:
            out[key] = value
    return out


def parse_override(text: str) -> dict[str, Any]:
    """ "sfm.min_num_matches=10" -> {"sfm": {"min_num_matches": 10}}."""
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"override {text!r} is not of the form section.key=value", "-o sfm.min_num_matches=10")
    parsed, _ = yaml_file.parse(f"value: {value}", f"override {text!r}")
    out: Any = parsed.get("value")
    for part in reversed(path):
        out = {part: out}
    return out


def fixed_model(section: str) -> type[BaseModel]:
    module, _, attribute = FIXED_SECTIONS[section].partition(":")
    return getattr(importlib.import_module(module), attribute)


def is_builtin(path: Path) -> bool:
    """True for data in the package, written builtin:NAME in place of a path."""
    return str(path).startswith("builtin:")


def _resolve_paths(model: BaseModel, base: Path) -> BaseModel:
    """Relative paths in a file are relative to that file."""
    updates = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Path) and not is_builtin(value):
            updates[name] = (base / value.expanduser()).resolve()
    return model.model_copy(update=updates) if updates else model


def load_config(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str] = (), base_dir: Path | None = None
) -> RunConfig:
    """Read, merge and validate a run.

    Args:
        source: path of a YAML file, or its content as a mapping.
        overrides: "section.key=value" strings, applied last; their relative paths are relative to the working folder.
        base_dir: what relative paths of a mapping are relative to; default: the working folder.
    Raises:
        ConfigError: for anything unknown, misspelt, duplicated or out of range, naming file and line.
    """
    from medrecon.plugins.manager import plugins

    if isinstance(source, Mapping):
        data, lines, name = dict(source), {}, "configuration"
        base = Path(base_dir or Path.cwd())
    else:
        data, lines = yaml_file.read(Path(source))
        name, base = str(source), Path(source).resolve().parent
    for text in overrides:
        data = merge(data, parse_override(text))
    if data.get("preset") is not None:
        data = merge(_load_preset(data["preset"]), data)

    def place(*prefix: str):
        return lambda path: f"{name}:{lines[(*prefix, *path)]}" if (*prefix, *path) in lines else ""

    sections_known = [*COMPONENT_SECTIONS, *FIXED_SECTIONS, *LIST_SECTIONS, front_ends.SECTION]
    top = {k: v for k, v in data.items() if k not in sections_known}
    unknown = [k for k in top if k not in RunOptions.model_fields]
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), [*sections_known, *RunOptions.model_fields], 1)
        raise ConfigError(
            f"{place()((str(unknown[0]),)) or name}: unknown section {unknown[0]!r}",
            f"did you mean {near[0]!r}?" if near else f"sections: {', '.join(sections_known)}",
        )
    options = validate_options(RunOptions, top, name, place())

    registry = plugins()
    decided, choice = front_ends.choose(
        data.pop(front_ends.SECTION, None), data, options.front_end, options.accept_licenses, registry, name
    )
    data = merge(decided, data)
    sections: dict[str, Section] = {}
    for key, (kind, default) in COMPONENT_SECTIONS.items():
        given = _mapping(data.get(key), key, name)
        chosen = given.pop("name", default)
        if not isinstance(chosen, str):
            raise ConfigError(
                f"{name}: section {key!r} needs a name",
                f"name: one of {', '.join(c.name for c in registry.components(kind))}",
            )
        component = registry.component(kind, chosen)
        model = component.load_config()
        if options.device != "auto" and _takes_device(model):
            given.setdefault("device", options.device)
        sections[key] = Section(component, _resolve_paths(validate_options(model, given, key, place(key)), base))
    for key in FIXED_SECTIONS:
        model = validate_options(fixed_model(key), _mapping(data.get(key), key, name), key, place(key))
        sections[key] = Section(None, _resolve_paths(model, base))
    lists = {}
    for key, (kind, default_names) in LIST_SECTIONS.items():
        given = data.get(key, dict.fromkeys(default_names))
        if isinstance(given, list):
            given = dict.fromkeys(str(g) for g in given)
        picked = []
        for chosen, opts in _mapping(given, key, name).items():
            component = registry.component(kind, chosen)
            model = validate_options(
                component.load_config(), _mapping(opts, f"{key}.{chosen}", name), f"{key}.{chosen}", place(key, chosen)
            )
            picked.append(Section(component, _resolve_paths(model, base)))
        lists[key] = tuple(picked)
    config = RunConfig(options, sections, lists, choice)
    check_accepts(config.sections["features"], config.sections["matching"])
    return config


def _takes_device(model: type[BaseModel]) -> bool:
    """Whether a component's options say where it computes, in the words that the run uses for it."""
    field = model.model_fields.get("device")
    return field is not None and field.annotation == Device


def _mapping(value: Any, key: str, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{name}: section {key!r} must be a mapping, got {type(value).__name__} {value!r}",
            f"write the options of {key} as indented lines below it",
        )
    return {str(k): v for k, v in value.items()}


def check_accepts(features: Section, matching: Section) -> None:
    """A matcher says which extractors' features it takes: better to learn it now than after an hour.

    Raises:
        ConfigError: it does not take those of this extractor.
    """
    extractor, matcher = features.component, matching.component
    if "*" not in matcher.accepts and extractor.name not in matcher.accepts:
        raise ConfigError(
            f"matcher {matcher.name!r} does not take features of {extractor.name!r}",
            f"set features.name to one of: {', '.join(matcher.accepts)}",
        )
    # A plugin's model need not derive from ours.
    fitting = getattr(matching.options, "accepts", lambda: None)()
    if fitting is not None and extractor.name not in fitting:
        raise ConfigError(
            f"matcher {matcher.name!r} does not take features of {extractor.name!r} with these options",
            f"choose the weights for {extractor.name!r} (`medrecon plugins show matcher {matcher.name}`),"
            f" or set features.name to: {', '.join(fitting)}",
        )

# SPDX-License-Identifier: Apache-2.0
"""Sequences that the tables are made on: one YAML file each, with degraded twins of the same pictures."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Names
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

import medrecon
from medrecon.assets.store import require
from medrecon.config import yaml_file
from medrecon.config.base import ComponentConfig
from medrecon.config.run_config import merge
from medrecon.errors import AssetError, ConfigError


class SequenceFile(ComponentConfig):
    """What a file in benchmarks/sequences says; its name is the sequence's."""

    title: str = Field(description="what is to be seen, for headings")
    asset: str | None = Field(None, description="a volume of `medrecon data list`, put into run.source.path")
    own: str | None = Field(None, description="what the user gives a path to with --path, such as: a video")
    run: dict[str, Any] = Field(description="configuration as for `medrecon run`: source, preset, camera model, scale")
    quick: dict[str, Any] = Field({}, description="what --quick changes in it")
    twins: dict[str, dict[str, Any]] = Field({}, description="changes that make a harder twin, by name: noisy, ...")


@dataclass(frozen=True, slots=True)
class BenchSequence:
    """Attributes:
    name: of the file, with "@twin" for a twin.
    title: in words.
    config: run configuration up to the masks.
    """

    name: str
    title: str
    config: dict[str, Any]


def default_folder() -> Path:
    """benchmarks/sequences beside the package.  Raises ConfigError where only the package is installed."""
    folder = Path(medrecon.__file__).resolve().parent.parent / "benchmarks" / "sequences"
    if not folder.is_dir():
        raise ConfigError(
            "the sequences are not part of the installed package",
            "give --sequences FOLDER: benchmarks/sequences of the source, or YAML files of your own",
        )
    return folder


def load_sequences(
    folder: Path, only: Names[str] = (), quick: bool = False, paths: Mapping[str, Path] | None = None
) -> tuple[list[BenchSequence], dict[str, str]]:
    """Sequences in the order of their names, twins only where ``only`` names them ("ct-bone@noisy", "@noisy" for all).

    Args:
        paths: the user's own files, by name of the sequence that is about them.

    Returns:
        sequences, and by name why others are left out (their volume is not here, no path was given).

    Raises:
        ConfigError: a file that is not one, or a name that does not exist.
    """
    files = {p.stem: _read(p) for p in sorted(Path(folder).glob("*.yaml"))}
    if not files:
        raise ConfigError(f"{folder} holds no sequence (*.yaml)", "see benchmarks/sequences of the source")
    known = [n for stem, f in files.items() for n in (stem, *(f"{stem}@{t}" for t in f.twins))]
    paths = dict(paths or {})
    for name in paths:
        if name not in files or not files[name].own:
            own = ", ".join(n for n, f in files.items() if f.own) or "none"
            raise ConfigError(f"--path {name}=...: no sequence of that name takes a file of yours", f"there are: {own}")
    wanted = []
    for name in only or files:
        found = [k for k in known if k == name or (name.startswith("@") and k.endswith(name))]
        if not found:
            raise ConfigError(f"there is no sequence {name!r}", f"one of {', '.join(known)}")
        wanted += [k for k in found if k not in wanted]
    out, missing = [], {}
    for name in wanted:
        stem, _, twin = name.partition("@")
        file = files[stem]
        config = merge(file.run, file.quick) if quick else dict(file.run)
        if file.own and stem not in paths:
            missing[name] = f"it is about {file.own} of yours; give --path {stem}=PATH"
            continue
        if file.own:
            config = merge(config, {"source": {"path": str(Path(paths[stem]).resolve())}})
        if file.asset:
            try:
                config = merge(config, {"source": {"path": str(require(file.asset))}})
            except AssetError as e:
                missing[name] = f"{e.cause}; {e.remedy}"
                continue
        title = f"{file.title}, {twin}" if twin else file.title
        out.append(BenchSequence(name, title, merge(config, file.twins[twin]) if twin else config))
    return out, missing


def _read(path: Path) -> SequenceFile:
    data, _ = yaml_file.read(path)
    try:
        return SequenceFile.model_validate(data)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ConfigError(
            f"{path.name}: {where}: {first['msg']}", "title, run; asset or own, quick and twins if need be"
        ) from e

# SPDX-License-Identifier: Apache-2.0
"""When a stage's result may be used again, and how a new one takes its place without a moment of neither."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medrecon.assets import asset
from medrecon.config.run_config import RunConfig, Section, is_builtin
from medrecon.errors import InputError
from medrecon.pipeline.stages import STAGES, Stage
from medrecon.pipeline.weights import assets_of
from medrecon.types.storage import read_json, write_json

STAMP = ".stage.json"
_WHOLE_CONTENT_BYTES = 4 << 30


def digest_path(path: Path) -> str:
    """Hash of a file, or of every file below a folder with its relative name.

    Above 4 GiB in all, size and modification time stand for the content of each file.

    Raises:
        InputError: the path is missing or cannot be read.
    """
    h = hashlib.blake2b(digest_size=16)
    try:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            next(path.iterdir(), None)  # an unreadable folder raises here instead of looking empty
        else:
            files = [path]
        sizes = [f.stat().st_size for f in files]
        by_content = sum(sizes) <= _WHOLE_CONTENT_BYTES
        for f, size in zip(files, sizes):
            h.update(f"{f.relative_to(path) if path.is_dir() else ''}\0{size}\0".encode("utf-8", "surrogateescape"))
            if by_content:
                with open(f, "rb") as stream:
                    while chunk := stream.read(1 << 22):
                        h.update(chunk)
            else:
                h.update(str(f.stat().st_mtime_ns).encode())
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror or e}", "check the path and its permissions") from e
    return h.hexdigest()


def section_facts(section: Section) -> dict[str, Any]:
    """What of a section decides the result; a path counts by what lies there, not by its name."""
    facts = section.settled().to_dict()
    if section.component:
        facts["__version__"] = section.component.version
        facts["__factory__"] = section.component.factory
    for field in type(section.options).model_fields:
        value = getattr(section.options, field)
        if isinstance(value, Path) and not is_builtin(value):
            facts[field] = digest_path(value)
    if names := assets_of(section):
        facts["__assets__"] = {name: asset(name).sha256 for name in names}  # another release may mean another file
    return facts


def stage_keys(config: RunConfig, device: str, threads: int, processes: int = 1) -> dict[str, str]:
    """Cache key of every stage: sha256 over its settings, its component's version, and the keys of what it needs."""
    keys: dict[str, str] = {}
    for stage in STAGES.values():
        facts: dict[str, Any] = {"stage": stage.name, "version": stage.version, "needs": [keys[n] for n in stage.needs]}
        for name in stage.sections:
            if name in config.lists:
                facts[name] = [section_facts(s) for s in config.lists[name]]
            else:
                facts[name] = section_facts(config.sections[name])
        if stage.seeded:
            facts["seed"] = config.options.seed
        if stage.on_device:
            facts["device"], facts["threads"] = device, threads
        if stage.shared and processes > 1:
            facts["processes"] = processes
        keys[stage.name] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return keys


class StageStore:
    """The folders of one run's stages.

    A stage writes into ``.NAME.KEY.partial``; when it is done the folder is stamped and renamed to ``NAME``. A folder
    under its final name is therefore always whole, and a partial one with the same key is where a killed run resumes.
    """

    def __init__(self, root: Path):
        self.root = root / "stages"

    def final(self, stage: str) -> Path:
        return self.root / stage

    def partial(self, stage: str, key: str) -> Path:
        return self.root / f".{stage}.{key[:16]}.partial"

    def _old(self, stage: str) -> Path:
        return self.root / f".{stage}.old"

    def stamp(self, stage: str) -> Mapping[str, Any] | None:
        """{"key", "seconds", "assets"} of the finished stage, None when there is none."""
        return self._read_stamp(self.final(stage))

    @staticmethod
    def _read_stamp(folder: Path) -> Mapping[str, Any] | None:
        try:
            stamp = read_json(folder / STAMP)
        except InputError:
            return None
        return stamp if isinstance(stamp, dict) and isinstance(stamp.get("key"), str) else None

    def is_fresh(self, stage: str, key: str) -> bool:
        """True when the finished result was made with exactly these settings (completing an interrupted rename)."""
        partial = self.partial(stage, key)
        stamp = self._read_stamp(partial)
        if stamp and stamp["key"] == key:
            self._swap(stage, partial)
        stamp = self.stamp(stage)
        return bool(stamp and stamp["key"] == key)

    def begin(self, stage: Stage, key: str, scratch: bool) -> Path:
        """Folder to write into; leftovers of other settings (and, with ``scratch``, of these) are removed."""
        self.root.mkdir(parents=True, exist_ok=True)
        mine = self.partial(stage.name, key)
        for other in self.root.glob(f".{stage.name}.*.partial"):
            if other != mine or scratch:
                shutil.rmtree(other)
        mine.mkdir(exist_ok=True)
        return mine

    def discard(self, stage: str, key: str) -> None:
        """Forget unfinished work that cannot be resumed."""
        shutil.rmtree(self.partial(stage, key), ignore_errors=True)

    def finish(self, stage: str, key: str, seconds: float, assets: Iterable[str] = ()) -> None:
        """Stamp what was written, with the names of the assets it took, and put it in place."""
        partial = self.partial(stage, key)
        write_json(partial / STAMP, {"key": key, "seconds": round(seconds, 3), "assets": sorted(assets)})
        self._swap(stage, partial)

    def _swap(self, stage: str, partial: Path) -> None:
        old = self._old(stage)
        if old.exists():
            shutil.rmtree(old)
        if self.final(stage).exists():
            self.final(stage).rename(old)
        partial.rename(self.final(stage))
        if old.exists():
            shutil.rmtree(old)

# SPDX-License-Identifier: Apache-2.0
"""The weights of a run: which it needs, that they are here and permitted before any work, and which it used."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medrecon import assets
from medrecon.config.run_config import RunConfig, Section
from medrecon.errors import AssetError
from medrecon.networks.weights import SUFFIXES
from medrecon.pipeline.stages import STAGES


def assets_of(section: Section) -> tuple[str, ...]:
    """Names of the assets a section says it needs; a plugin's model need not derive from ours."""
    return tuple(getattr(section.options, "assets", tuple)())


def needed(config: RunConfig) -> list[str]:
    """Names of the assets that the components of a run say they need, each once, in the order of the stages."""
    sections = [*config.sections.values(), *(s for group in config.lists.values() for s in group)]
    return list(dict.fromkeys(name for section in sections for name in assets_of(section)))


def check(config: RunConfig) -> list[str]:
    """That everything a run needs is here and permitted.

    Returns:
        A line for each licence that the run file alone accepts, and for weights that are experimental.

    Raises:
        AssetError: names all that is missing, changed or not permitted, with the one command that mends it; or a
            licence the run accepts is not known.
    """
    by_run = config.options.accept_licenses
    for name in by_run:
        assets.license_terms(name)
    obstacles = {name: why for name in needed(config) if (why := assets.obstacle(name, by_run, verify=True))}
    if obstacles:
        raise AssetError(f"the run lacks: {'; '.join(obstacles.values())}", assets.fetch_command(obstacles))
    entries = [assets.asset(name) for name in needed(config)]
    notes = [
        f"the weights {entry.name} are experimental: they have not been measured to be better than the default"
        for entry in entries
        if entry.experimental
    ]
    acceptances = dict.fromkeys(entry.acceptance for entry in entries)
    terms = [
        assets.license_terms(name) for name in acceptances if name and assets.accepted(name, by_run).how != "stored"
    ]
    return notes + [f"licence {t.name} of {t.who} is accepted in the run file: {t.terms} {t.url}" for t in terms]


def used(config: RunConfig, stages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """For the manifest: each asset of the stages that were run or reused, with its licence and how it was accepted.

    Args:
        config: of the run.
        stages: records with ``name`` and, where the stage asked for assets while it worked, ``assets``.
    """
    found: dict[str, list[str]] = {}
    files: list[dict[str, Any]] = []
    for record in stages:
        sections: list[Section] = []
        for name in STAGES[record["name"]].sections:
            sections += config.lists[name] if name in config.lists else [config.sections[name]]
        declared = (asset for section in sections for asset in assets_of(section))
        for name in dict.fromkeys([*declared, *record.get("assets", ())]):
            found.setdefault(name, []).append(record["name"])
        files += [_own_file(path, record["name"]) for section in sections for path in _checkpoints(section)]
    return [*(_facts(name, where, config.options.accept_licenses) for name, where in found.items()), *files]


def weights_sha256(section: Section) -> list[str]:
    """Hashes of the weights that a component takes, by name or as a file."""
    named = [assets.asset(name).sha256 for name in assets_of(section)]
    return [*named, *(assets.digest(path) for path in _checkpoints(section))]


def _checkpoints(section: Section) -> list[Path]:
    """Files of weights given by path."""
    values = (getattr(section.options, field) for field in type(section.options).model_fields)
    return [v for v in values if isinstance(v, Path) and v.suffix in SUFFIXES]


def _own_file(path: Path, stage: str) -> dict[str, Any]:
    """Facts of a checkpoint given by path, without the path; its licence where the .json beside it says."""
    try:
        license = str(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["license"])
    except (OSError, ValueError, KeyError, TypeError):
        license = "not stated"
    return {
        "name": "a file of the user's", "license": license, "sha256": assets.digest(path), "stages": [stage],
        "acceptance": None,
    }  # fmt: skip


def _facts(name: str, stages: list[str], by_run: tuple[str, ...]) -> dict[str, Any]:
    try:
        entry = assets.asset(name)
    except AssetError:  # a reused stage had it from a plugin that is gone
        return {"name": name, "license": "unknown", "sha256": None, "stages": stages, "acceptance": None}
    acceptance = None
    if entry.acceptance:
        how = assets.accepted(entry.acceptance, by_run)
        terms = assets.license_terms(entry.acceptance)
        acceptance = {
            "license": terms.name, "title": terms.title, "url": terms.url,
            "how": how.how if how else "not recorded", "date": how.date if how else "",
        }  # fmt: skip
    return {
        "name": name, "license": entry.license, "sha256": entry.sha256, "citation": entry.citation, "stages": stages,
        "acceptance": acceptance, "experimental": entry.experimental,
    }  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""The weights of a run: which it needs, that they are here and permitted before any work, and which it used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from medrecon import assets
from medrecon.config.run_config import RunConfig, Section
from medrecon.errors import AssetError
from medrecon.pipeline.stages import STAGES


def _of(section: Section) -> tuple[str, ...]:
    """Assets of a section; a plugin's model need not derive from ours."""
    return tuple(getattr(section.options, "assets", tuple)())


def needed(config: RunConfig) -> list[str]:
    """Names of the assets that the components of a run say they need, each once, in the order of the stages."""
    sections = [*config.sections.values(), *(s for group in config.lists.values() for s in group)]
    return list(dict.fromkeys(name for section in sections for name in _of(section)))


def check(config: RunConfig) -> None:
    """Raises one AssetError naming everything that is missing, changed or not permitted, with the command for it."""
    by_run = config.options.accept_licenses
    for name in by_run:
        assets.license_terms(name)
    obstacles = {name: why for name in needed(config) if (why := assets.obstacle(name, by_run, verify=True))}
    if obstacles:
        raise AssetError(f"the run lacks: {'; '.join(obstacles.values())}", assets.fetch_command(obstacles))


def used(config: RunConfig, stages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """For the manifest: each asset of the stages that were run or reused, with its licence and how it was accepted.

    Args:
        config: of the run.
        stages: records with ``name`` and, where the stage asked for assets while it worked, ``assets``.
    """
    found: dict[str, list[str]] = {}
    for record in stages:
        sections: list[Section] = []
        for name in STAGES[record["name"]].sections:
            sections += config.lists[name] if name in config.lists else [config.sections[name]]
        declared = (asset for section in sections for asset in _of(section))
        for name in dict.fromkeys([*declared, *record.get("assets", ())]):
            found.setdefault(name, []).append(record["name"])
    return [_facts(name, where, config.options.accept_licenses) for name, where in found.items()]


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
        "acceptance": acceptance,
    }  # fmt: skip

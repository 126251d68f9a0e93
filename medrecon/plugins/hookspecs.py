# SPDX-License-Identifier: Apache-2.0
"""The hooks a plugin may implement. Signatures may gain arguments, never lose them (pluggy's own rule)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from medrecon.assets.catalogue import Asset, License
    from medrecon.plugins.component import Component

PROJECT = "medrecon"
API_VERSION = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def medrecon_components() -> "list[Component]":
    """Return the components this plugin provides."""


@hookspec
def medrecon_assets() -> "list[Asset | License]":
    """Return the weights and data sets this plugin adds to the catalogue, and licences they want accepted."""


@hookspec
def medrecon_commands(cli) -> None:
    """Add commands to the ``medrecon`` command line (``cli`` is the typer application)."""


@hookspec
def medrecon_run_started(run_dir: "Path", config: dict) -> None:
    """A run begins; ``config`` is the resolved configuration as plain data."""


@hookspec
def medrecon_stage_started(run_dir: "Path", stage: str) -> None:
    """A stage begins (not called for a stage taken from the cache)."""


@hookspec
def medrecon_stage_finished(run_dir: "Path", stage: str, seconds: float, cached: bool) -> None:
    """A stage's result is in place."""


@hookspec
def medrecon_run_finished(run_dir: "Path", result: dict) -> None:
    """A run ended well; ``result`` is the content of result.json."""

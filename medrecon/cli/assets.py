# SPDX-License-Identifier: Apache-2.0
"""Commands for what is fetched on request: weights and data."""

from __future__ import annotations

import typer

from medrecon.errors import AssetError, MedreconError


def add(app: typer.Typer) -> None:
    app.add_typer(_group("weights"), name="weights", help="List and fetch network weights. Nothing is fetched unasked.")
    app.add_typer(_group("data"), name="data", help="List and fetch public data sets. Nothing is fetched unasked.")


def _group(kind: str) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

    @group.command("list")
    def list_command():
        """What there is, how large, under what licence, and whether it is here."""
        from medrecon.assets import entries, path

        for a in entries(kind):
            state = "here" if path(a.name) else "not fetched"
            print(f"{a.name:22} {a.download_bytes / 1e6:7.1f} MB  {state:12} {a.license:24} {a.summary}")

    @group.command("fetch")
    def fetch_command(
        names: list[str] = typer.Argument(..., help="Names from `list`."),
        optional: bool = typer.Option(False, "--optional", help="Only warn when it cannot be fetched (exit code 0)."),
    ):
        """Download, verify and keep; does nothing when it is already here."""
        from medrecon.assets import entries, fetch
        from medrecon.pipeline.display import Display

        known = {a.name for a in entries(kind)}
        for name in names:
            try:
                if name not in known:
                    raise AssetError(f"there are no {kind} named {name!r}", f"`medrecon {kind} list`")
                print(fetch(name, Display()))
            except MedreconError as e:
                if not optional:
                    raise
                print(f"note: {e}")

    @group.command("path")
    def path_command(name: str = typer.Argument(..., help="Name from `list`.")):
        """Where it lies."""
        from medrecon.assets import require

        print(require(name))

    return group

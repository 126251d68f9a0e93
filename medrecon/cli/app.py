# SPDX-License-Identifier: Apache-2.0
"""Puts the command line together, plugins' commands included."""

from __future__ import annotations

import sys

import typer


def build():
    """The click command of everything.  A plugin whose commands break is reported and left out."""
    from medrecon.cli import assets, bench, inspect, runs, tools, train
    from medrecon.plugins.manager import plugins

    app = typer.Typer(
        help="Pictures of anatomy in; camera poses, a radiance field, a surface and measurements in millimetres out.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="First steps: `medrecon demo`, then `medrecon reconstruct VIDEO.mp4 --preset endoscopy --out runs/1`.",
    )
    app.callback()(_root)
    for module in (runs, tools, inspect, assets, bench, train):
        module.add(app)
    for problem in plugins().notify("medrecon_commands", cli=app):
        print(f"plugin {problem.plugin}: {problem.cause}", file=sys.stderr)
    return typer.main.get_command(app)


def _version(wanted: bool) -> None:
    if wanted:
        import medrecon

        print(f"medrecon {medrecon.__version__}")
        raise typer.Exit()


def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
):
    pass

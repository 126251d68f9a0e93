# SPDX-License-Identifier: Apache-2.0
"""Commands for what is fetched on request: weights and data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from medrecon.errors import AssetError, MedreconError

_JSON = typer.Option(False, "--json", help="For programs.")
_OPTIONAL = typer.Option(False, "--optional", help="Only warn when something cannot be fetched (exit code 0).")
_ACCEPT = typer.Option(
    [], "--accept-license", metavar="LICENSE", help="Accept these terms, show them and remember that, once for all."
)


def add(app: typer.Typer) -> None:
    app.add_typer(_group("weights"), name="weights", help="List and fetch network weights. Nothing is fetched unasked.")
    app.add_typer(_group("data"), name="data", help="List and fetch public data sets. Nothing is fetched unasked.")


def _group(kind: str) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

    @group.command("list")
    def list_command(as_json: bool = _JSON):
        """What there is, how large, whether it is here and permitted, and under what licence."""
        rows = _rows(kind)
        print(json.dumps(rows, indent=1) if as_json else _table(rows))

    @group.command("fetch", epilog=f"Example: medrecon {kind} fetch {_EXAMPLES[kind]}")
    def fetch_command(
        names: list[str] = typer.Argument(None, help="Names from `list`."),
        config: Path | None = typer.Option(
            None, "--config", metavar="RUN.yaml", help=f"Fetch all {kind} that this run needs."
        ),
        accept_license: list[str] = _ACCEPT,
        optional: bool = _OPTIONAL,
    ):
        """Download, verify and keep; does nothing when it is already here. A download that was cut goes on."""
        try:
            failed = _fetch(kind, names or [], config, accept_license)
        except MedreconError as e:
            failed = [e]
        if optional:
            for e in failed:
                print(f"note: {e}")
        elif len(failed) == 1:
            raise failed[0]
        elif failed:
            for e in failed:
                print(f"error: {e}", file=sys.stderr)
            raise typer.Exit(failed[0].exit_code)

    @group.command("path")
    def path_command(name: str = typer.Argument(..., help="Name from `list`.")):
        """Where it lies, after a look at its hash."""
        from medrecon.assets import require

        _check_kind(kind, [name])
        print(require(name))

    return group


_EXAMPLES = {"weights": "superpoint superglue-outdoor --accept-license magicleap", "data": "lidc-idri-0001-dicom"}


def _rows(kind: str) -> list[dict]:
    from medrecon.assets import accepted, entries, path, state

    rows = []
    for a in entries(kind):
        place, how = path(a.name), accepted(a.acceptance) if a.acceptance else None
        rows.append(
            {
                "name": a.name, "state": state(a), "license": a.license, "summary": a.summary,
                "size_bytes": a.size_bytes, "download_bytes": a.download_bytes, "sha256": a.sha256,
                "citation": a.citation, "accept_license": a.acceptance, "accepted": str(how) if how else None,
                "sources": [str(source) for source in a.sources], "shipped": a.shipped,
                "experimental": a.experimental, "path": str(place) if place else None,
            }
        )  # fmt: skip
    return rows


def _table(rows: list[dict]) -> str:
    """Two lines each: name, size and state; then what it is and its licence."""
    if not rows:
        return "none"
    wide = max(len(r["name"]) for r in rows)
    states = [f"{r['state']}, ships with medrecon" if r["shipped"] else r["state"] for r in rows]
    lines = []
    for r, now in zip(rows, states):
        summary = f"experimental: {r['summary']}" if r["experimental"] else r["summary"]
        lines.append(f"{r['name']:{wide}}  {r['size_bytes'] / 1e6:6.1f} MB  {now:{max(map(len, states))}}  {summary}")
        terms = f" (--accept-license {r['accept_license']}{'; ' + r['accepted'] if r['accepted'] else ''})"
        lines.append(f"{'':{wide}}  licence: {r['license']}{terms if r['accept_license'] else ''}")
    return "\n".join(lines)


def _check_kind(kind: str, names: list[str]) -> None:
    from medrecon.assets import asset

    for name in names:
        found = asset(name)
        if found.kind != kind:
            raise AssetError(f"{name!r} are {found.kind}, not {kind}", f"medrecon {found.kind} fetch {name}")


def _fetch(kind: str, names: list[str], config: Path | None, accept: list[str]) -> list[AssetError]:
    """Fetch all of these, printing where each lies; what failed."""
    from medrecon.assets import accept as store_acceptance
    from medrecon.assets import fetch_each, license_terms
    from medrecon.assets.licenses import shown
    from medrecon.pipeline.display import Display

    by_run: tuple[str, ...] = ()
    if config is not None:
        needed, by_run = _needs(kind, config)
        names = [*names, *needed]
        if not names:
            print(f"{config} needs no {kind}", file=sys.stderr)
            return []
    if not names:
        raise typer.BadParameter(f"give names from `medrecon {kind} list`, or --config RUN.yaml")
    _check_kind(kind, names)
    for license_name in accept:
        license_terms(license_name)  # all known before one is stored
    for license_name in dict.fromkeys(accept):
        print(f"accepted and remembered: {shown(store_acceptance(license_name))}", file=sys.stderr)
    for license_name in by_run:
        print(f"accepted in {config.name}: {shown(license_terms(license_name))}", file=sys.stderr)
    failed = []
    display = Display()
    with display.during("fetch", f"{kind}: {', '.join(dict.fromkeys(names))}"):
        for _, result in fetch_each(names, display, by_run):
            if isinstance(result, AssetError):
                failed.append(result)
            else:
                print(result, flush=True)
    return failed


def _needs(kind: str, config: Path) -> tuple[list[str], tuple[str, ...]]:
    """(assets of this kind that the run needs, licences it accepts)."""
    import medrecon
    from medrecon.assets import asset
    from medrecon.pipeline.weights import needed

    resolved = medrecon.load_config(config)
    for line in resolved.choice.lines() if resolved.choice else ():
        print(line, file=sys.stderr)
    return [name for name in needed(resolved) if asset(name).kind == kind], resolved.options.accept_licenses

# SPDX-License-Identifier: Apache-2.0
"""Commands that run the street: run, reconstruct, demo."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import typer

OUT = typer.Option(..., "--out", help="Folder of the run; the same folder again resumes it.")
OVERRIDE = typer.Option([], "-o", "--override", help="section.key=value, as often as needed.", metavar="KEY=VALUE")
FROM = typer.Option(None, "--from", help="Redo this stage and all after it.", metavar="STAGE")
UNTIL = typer.Option(None, "--until", help="Stop after this stage.", metavar="STAGE")
FORCE = typer.Option([], "--force", help="Redo this stage and what depends on it.", metavar="STAGE")
DRY = typer.Option(False, "--dry-run", help="Show the plan and what would be reused, then stop.")
QUIET = typer.Option(False, "--quiet", "-q", help="Print the result only.")
EVENTS = typer.Option(None, "--events", help="Append progress as JSON lines to this file ('-': standard output).")


def _execute(config, out: Path, from_stage, until, force, dry_run: bool, quiet: bool, events: str | None) -> None:
    from medrecon.pipeline import processes
    from medrecon.pipeline.display import Display, duration
    from medrecon.pipeline.run import plan, run

    if processes.rank():  # of torchrun's: process 0 says everything
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if not dry_run:
            run(config, out)
        return
    if dry_run:
        for p in plan(config, out, from_stage, until, force):
            print(f"{'reuse' if p.cached else 'run  '}  {p.stage.name:10} {p.key[:12]}  {p.stage.summary}")
        return
    stream = None
    if events:
        stream = sys.stdout if events == "-" else open(events, "a", encoding="utf-8")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's polite kill saves like Ctrl-C
    try:
        result = run(config, out, from_stage=from_stage, until=until, force=force, display=Display(quiet, stream))
    finally:
        if stream is not None and stream is not sys.stdout:
            stream.close()
    if events == "-":
        return
    print_metrics(result.summary, result.metrics)
    print(f"time      {duration(result.seconds['total'])}")
    print(f"result    {out / 'result.json'}")
    if result.report_path:
        print(f"report    {result.report_path}")


def print_metrics(summary: dict[str, Any], metrics: dict[str, Any]) -> None:
    """The figures as a plain table: name, value, spread, unit."""
    for name, metric in metrics.items():
        if metric.value is None:
            print(f"{name:24} -  ({metric.note})" if metric.note else f"{name:24} -")
            continue
        sigma = f" ± {metric.sigma:.3g}" if metric.sigma is not None else ""
        value = f"{metric.value:.0f}" if metric.unit in ("frames", "points") else f"{metric.value:.4g}"
        print(f"{name:24} {value}{sigma} {metric.unit}".rstrip())
    print(f"{'scale':24} {summary['scale']}")


def add(app: typer.Typer) -> None:
    @app.command("run")
    def run_command(
        config: Path = typer.Argument(
            ..., help="YAML file; `medrecon config show --preset NAME` prints one to start from."
        ),
        out: Path | None = typer.Option(None, "--out", help="Folder of the run; default: runs/<name of the file>."),
        override: list[str] = OVERRIDE,
        from_stage: str | None = FROM,
        until: str | None = UNTIL,
        force: list[str] = FORCE,
        dry_run: bool = DRY,
        quiet: bool = QUIET,
        events: str | None = EVENTS,
    ):
        """Run a YAML configuration from pictures to report."""
        import medrecon

        resolved = medrecon.load_config(config, override)
        _execute(resolved, out or Path("runs") / config.stem, from_stage, until, force, dry_run, quiet, events)

    @app.command("reconstruct")
    def reconstruct(
        path: Path = typer.Argument(
            ..., help="Video, folder of pictures, DICOM file or folder, or CT/MR volume.", metavar="INPUT"
        ),
        out: Path = OUT,
        preset: str | None = typer.Option(
            None, "--preset", help="endoscopy, orbit, microscopy, fast-cpu, xray; default by input."
        ),
        minutes: float | None = typer.Option(
            None, "--minutes", help="Training time of the radiance field; default: as many steps as it wants."
        ),
        override: list[str] = OVERRIDE,
        from_stage: str | None = FROM,
        until: str | None = UNTIL,
        force: list[str] = FORCE,
        dry_run: bool = DRY,
        quiet: bool = QUIET,
        events: str | None = EVENTS,
    ):
        """Reconstruct pictures without writing a configuration."""
        import medrecon
        from medrecon.config.run_config import merge, parse_override

        data: dict[str, Any] = {"version": 1}
        for text in override:
            data = merge(data, parse_override(text))
        source = dict(data.get("source") or {})
        if "name" not in source:
            from medrecon.ingest.guess import guess_source

            source["name"] = guess_source(path)
        source.setdefault("path", str(path))
        data["source"] = source
        if minutes is not None:
            data["training"] = {**(data.get("training") or {}), "minutes": minutes}
        data.setdefault("preset", preset or ("endoscopy" if source["name"] == "video" else "orbit"))
        _execute(medrecon.load_config(data), out, from_stage, until, force, dry_run, quiet, events)

    @app.command("demo")
    def demo(
        out: Path = typer.Option(Path("runs/demo"), "--out", help="Folder of the run."),
        override: list[str] = OVERRIDE,
        from_stage: str | None = FROM,
        until: str | None = UNTIL,
        force: list[str] = FORCE,
        dry_run: bool = DRY,
        quiet: bool = QUIET,
        events: str | None = EVENTS,
    ):
        """Reconstruct a real chest CT from pictures of it, and compare with the truth in millimetres."""
        import medrecon
        from medrecon.cli.demo import INTRODUCTION, demo_config
        from medrecon.pipeline import processes

        if not quiet and not dry_run and not processes.rank():
            print(INTRODUCTION, file=sys.stderr)
        _execute(medrecon.load_config(demo_config(), override), out, from_stage, until, force, dry_run, quiet, events)

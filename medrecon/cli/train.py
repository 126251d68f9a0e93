# SPDX-License-Identifier: Apache-2.0
"""Commands that train the learned front end: data, SuperPoint, SuperGlue, one's own pictures, export, curves."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import typer

from medrecon.errors import ConfigError

DATA = typer.Option(..., "--data", help="Folder of shards, from `medrecon train data`.")
OUT = typer.Option(..., "--out", help="Folder of the training; the same command again goes on where it stopped.")
MINUTES = typer.Option(None, "--minutes", min=0.01, help="Length in time; the learning rate follows the clock.")
STEPS = typer.Option(None, "--steps", min=1, help="Length in steps; then the same seed gives the same weights.")
RECIPE = typer.Option(None, "--recipe", help="Settings to start from: full (a GPU), cpu (half-size networks).")
CONFIG = typer.Option(None, "--config", help="YAML file of settings; `medrecon train settings KIND` prints one.")
SET = typer.Option([], "--set", metavar="KEY=VALUE", help="One setting, such as batch=16, as often as needed.")
DEVICE = typer.Option("auto", "--device", help="auto, cpu or cuda.")
CACHE = typer.Option(None, "--cache", help="Folder that keeps rendered views; default: below the temporary folder.")
QUIET = typer.Option(False, "--quiet", "-q", help="Print the result only.")
ORDER = "In order: train data, train superpoint, train superglue, train export. Your own pictures: train adapt."


def add(app: typer.Typer) -> None:
    app.add_typer(_group(), name="train", help="Train SuperPoint and SuperGlue, or adapt them to your pictures.")


def _group() -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, epilog=ORDER)

    @group.callback()
    def alone():
        from medrecon.pipeline import processes

        if processes.processes() > 1:
            raise ConfigError(
                f"{processes.processes()} processes were started, and weights are trained by one",
                "the same command without torchrun (which shares the training of radiance fields)",
            )

    @group.command("data", epilog="Example: medrecon train data --out data/train")
    def data_command(
        out: Path = typer.Option(..., "--out", help="Folder for the shards, about 40 MB."),
        only: list[str] = typer.Option([], "--only", help="Names of shards or splits; default: all."),
        skip_missing: bool = typer.Option(
            False, "--skip-missing", help="Leave out what has not been fetched instead of stopping."
        ),
        force: bool = typer.Option(False, "--force", help="Replace shards that are there."),
        quiet: bool = QUIET,
    ):
        """Make training data from fetched volumes and photographs: small files for any machine that trains."""
        from medrecon.pipeline.display import Display
        from medrecon.training.shard_sources import build_shards

        if out.is_dir() and any(out.glob("*.npz")) and not force:
            raise ConfigError(f"{out} holds shards already", "use them, give another --out, or --force")
        display = Display(quiet)
        with display.during("data", "training data"):
            built = build_shards(out, only or None, skip_missing, display)
        print(f"{len(built.written)} shards, {built.size_bytes / 1e6:.1f} MB in {out}")
        if built.left_out:
            print(f"left out: {', '.join(built.left_out)}")

    @group.command("superpoint", epilog="Example: medrecon train superpoint --data data/train --out runs/superpoint")
    def superpoint(
        data: Path = DATA,
        out: Path = OUT,
        minutes: float | None = MINUTES,
        steps: int | None = STEPS,
        recipe: str | None = RECIPE,
        config: Path | None = CONFIG,
        set_: list[str] = SET,
        device: str = DEVICE,
        cache: Path | None = CACHE,
        quiet: bool = QUIET,
    ):
        """Train keypoints and descriptors. Interrupt it at any time; the same command goes on."""
        _train("superpoint", data, out, minutes, steps, recipe, config, set_, device, cache, quiet)

    @group.command(
        "superglue",
        epilog="Example: medrecon train superglue --data data/train --out runs/superglue "
        "--superpoint runs/superpoint/superpoint.safetensors",
    )
    def superglue(
        data: Path = DATA,
        out: Path = OUT,
        superpoint: Path = typer.Option(
            ..., "--superpoint", help="Weights whose features it learns to match: superpoint.safetensors of a training."
        ),
        minutes: float | None = MINUTES,
        steps: int | None = STEPS,
        recipe: str | None = RECIPE,
        config: Path | None = CONFIG,
        set_: list[str] = SET,
        device: str = DEVICE,
        cache: Path | None = CACHE,
        quiet: bool = QUIET,
    ):
        """Train the matcher on the features of a trained SuperPoint, which stays as it is."""
        _train("superglue", data, out, minutes, steps, recipe, config, set_, device, cache, quiet, superpoint)

    @group.command("adapt", epilog="Example: medrecon train adapt --data clip.mp4 --out runs/adapted")
    def adapt_command(
        data: Path = typer.Option(..., "--data", help="Video, DICOM, or folder of pictures; no labels are needed."),
        out: Path = OUT,
        weights: str | None = typer.Option(
            None,
            "--weights",
            help="SuperPoint weights to start from: a name of `medrecon weights list`, or a file. "
            "The result has their licence. Default: the open ones that ship with medrecon.",
        ),  # fmt: skip
        minutes: float | None = MINUTES,
        steps: int | None = STEPS,
        config: Path | None = CONFIG,
        set_: list[str] = SET,
        override: list[str] = typer.Option(
            [], "-o", "--override", metavar="KEY=VALUE", help="Option of the source, such as start_s=10 or fps=5."
        ),
        device: str = DEVICE,
        quiet: bool = QUIET,
    ):
        """Fine-tune SuperPoint on your own pictures without labels, and measure on others whether it helped."""
        from medrecon.networks.weights import SUFFIXES
        from medrecon.pipeline.display import Display
        from medrecon.training.adapt import SCHEDULE, AdaptSettings, adapt
        from medrecon.training.adapt_report import report
        from medrecon.training.yaml_config import load_settings, source_options

        settings, schedule = load_settings(
            AdaptSettings, "adapt", config, None, set_, schedule=SCHEDULE, steps=steps, minutes=minutes
        )
        start = weights or _open_weights()
        start = Path(start) if isinstance(start, str) and Path(start).suffix in SUFFIXES else start
        results = adapt(data, start, out, settings, schedule, source_options(override), _device(device), Display(quiet))
        print(report(results))
        print(f"weights   {out / 'superpoint-adapted.safetensors'}")
        print(f"results   {out / 'results.json'}")

    @group.command("export", epilog="Example: medrecon train export runs/superpoint --out weights")
    def export_command(
        run: Path = typer.Argument(..., help="Folder of a finished training, also one from another machine."),
        out: Path = typer.Option(..., "--out", help="Folder for the files."),
        name: str | None = typer.Option(None, "--name", help="Of the files; default: superpoint or superglue."),
        full_precision: bool = typer.Option(False, "--full-precision", help="float32 rather than float16."),
        data: Path | None = typer.Option(None, "--data", help="Its shards, if the run does not say what they were."),
        evaluation: Path | None = typer.Option(
            None, "--evaluation", help="Markdown table for the model card, such as results.md of a benchmark."
        ),
        force: bool = typer.Option(False, "--force", help="Replace files that are there."),
    ):
        """Write weights that can be passed on: safetensors, facts and licences as JSON, a model card with curves."""
        from medrecon.training.export import export

        for path in export(run, out, name, not full_precision, data, evaluation, force):
            print(path)

    @group.command("curves", epilog="Example: medrecon train curves runs/superpoint runs/other --out curves.png")
    def curves(
        runs: list[Path] = typer.Argument(..., help="Folders of trainings, finished or running."),
        out: Path | None = typer.Option(None, "--out", help="PNG file to draw them into."),
    ):
        """Print where trainings stand, and draw their curves beside each other."""
        from medrecon.training.draw_curves import draw, load_runs, table

        loaded = load_runs(runs)
        print(table(loaded))
        if out is not None:
            print(f"curves    {draw(loaded, out)}")

    @group.command("settings")
    def settings_command(
        kind: str = typer.Argument(..., help="superpoint, superglue or adapt."),
        recipe: str | None = RECIPE,
    ):
        """Print every setting with its value as YAML, to start a --config file from."""
        import yaml

        from medrecon.training.yaml_config import load_settings

        cls, schedule = _settings_of(kind)
        settings, schedule = load_settings(cls, kind, recipe=recipe, schedule=schedule)
        data = {"version": 1, kind: {**_plain(settings), "schedule": _plain(schedule)}}
        print(yaml.safe_dump(data, sort_keys=False, default_flow_style=None), end="")

    return group


def _train(
    kind: str, data: Path, out: Path, minutes, steps, recipe, config, set_, device, cache, quiet, superpoint=None
) -> None:
    from medrecon.networks.device import place
    from medrecon.networks.weights import weights_path
    from medrecon.pipeline.display import Display, duration
    from medrecon.training.kinds import runner
    from medrecon.training.yaml_config import load_settings

    cls, schedule = _settings_of(kind)
    settings, schedule = load_settings(cls, kind, config, recipe, set_, schedule, steps, minutes)
    if superpoint is not None:
        settings = replace(settings, superpoint=str(weights_path(superpoint)))
    weights = out / f"{kind}.safetensors"
    if weights.is_file() and not (out / "state.pt").is_file():
        raise ConfigError(f"{out} holds trained weights whose state is gone", "give another --out")
    where, _ = place(f"train {kind}", _device(device), "auto")
    display = Display(quiet)
    with display.during("training", f"train {kind}"):
        summary = runner(kind)(settings, schedule, data, out, where, display.say, cache)
    for name, value in summary["validation"].items():
        print(f"{name:24} {value:.4g}")
    if "match_threshold" in summary:
        print(f"{'match_threshold':24} {summary['match_threshold']:g}")
    print(f"time      {duration(summary['seconds'])}, {summary['steps']} steps")
    print(f"weights   {weights}")


def _device(name: str) -> str:
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"there is no device {name!r}", "auto, cpu or cuda")
    return name


def _settings_of(kind: str) -> tuple[type, Any]:
    """Dataclass of a kind's settings and its schedule as long as nobody says otherwise."""
    from medrecon.training.kinds import KINDS, settings_class
    from medrecon.training.settings import Schedule

    if kind == "adapt":
        from medrecon.training.adapt import SCHEDULE, AdaptSettings

        return AdaptSettings, SCHEDULE
    if kind not in KINDS:
        raise ConfigError(f"there is no training {kind!r}", f"one of {', '.join((*KINDS, 'adapt'))}")
    return settings_class(kind), Schedule()


def _open_weights() -> str:
    """Name of the SuperPoint weights that ship with medrecon."""
    from medrecon import assets

    for entry in assets.entries("weights"):
        if entry.name.startswith("superpoint") and entry.acceptance is None and assets.path(entry.name):
            return entry.name
    raise ConfigError(
        "no open SuperPoint weights ship with this medrecon",
        "give --weights, a name of `medrecon weights list` or a file",
    )


def _plain(settings: Any) -> dict[str, Any]:
    """A dataclass as YAML can hold it."""
    out = {}
    for f in fields(settings):
        value = getattr(settings, f.name)
        out[f.name] = _plain(value) if is_dataclass(value) else list(value) if isinstance(value, tuple) else value
    return out

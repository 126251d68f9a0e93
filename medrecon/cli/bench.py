# SPDX-License-Identifier: Apache-2.0
"""Commands that measure: front ends against exact truth and on the user's own pictures, and the speed of the ops."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import typer

from medrecon.errors import ConfigError

OUT = typer.Option(..., "--out", help="Folder for the results; the same folder again resumes or reuses.")
SEEDS = typer.Option(None, "--seeds", min=1, max=100, help="Draws of everything random (default 3; quick: 1).")
QUICK = typer.Option(False, "--quick", help="A small version: does it work, not who is best.")
METHODS = typer.Option(
    "",
    "--methods",
    help="Comma-separated extractor+matcher, e.g. sift+nearest-neighbour,superpoint[detector=sift]+nearest-neighbour.",
)
BUDGET = typer.Option(1024, "--budget", help="Keypoints per picture, the same for every method.")
THREADS = typer.Option(0, "--threads", help="CPU threads; 0: all cores.")
OVERRIDE = typer.Option([], "-o", "--override", help="component.option=value, e.g. sift.contrast_threshold=0.02.")
SILENT = typer.Option(False, "--silent", help="No progress, only the table.")


def add(app: typer.Typer) -> None:
    app.add_typer(_group(), name="bench", help="Measure front ends and, with plugins, more.")


def _group() -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

    @group.command("list")
    def list_command():
        """Benchmarks that are installed, and which front ends can be run here."""
        import medrecon
        from medrecon.bench.methods import available, parse

        for c in medrecon.components("benchmark"):
            print(f"{c.name:14} {c.summary}")
        print("\nfront ends:")
        methods = parse((), 1024, {})
        width = max(len(m.name) for m in methods)
        for method in methods:
            why_not = available(method)
            print(f"{method.name:{width}} " + ("ready" if why_not is None else f"{why_not.reason}; {why_not.command}"))

    @group.command("matching")
    def matching(
        out: Path = OUT,
        quick: bool = QUICK,
        seeds: int | None = SEEDS,
        methods: str = METHODS,
        budget: int = BUDGET,
        threads: int = THREADS,
        volume: list[str] = typer.Option(
            [], "--volume", help="PATH[,transfer=NAME][,crop=NAME] to render; default: the chest CT in the package."
        ),
        images: Path | None = typer.Option(None, "--images", help="Folder of pictures, added to the homographies."),
        plots: bool = typer.Option(True, "--plots/--no-plots", help="Draw accuracy, sweeps and keypoints."),
        override: list[str] = OVERRIDE,
        silent: bool = SILENT,
    ):
        """Front ends on pairs of pictures whose correspondences are known exactly."""
        from medrecon.bench.methods import split_names

        options = {"methods": split_names(methods), "budget": budget, "threads": threads, "plots": plots}
        options |= {"images": images, "options": _options(override)}
        if volume:
            options["volumes"] = tuple(_volume(text) for text in volume)
        _run("matching", options, out, quick, seeds, silent)

    @group.command("front-ends")
    def front_ends(
        path: Path | None = typer.Argument(None, help="Video, folder of pictures, DICOM or volume.", metavar="INPUT"),
        demo: bool = typer.Option(False, "--demo", help="The demo's chest CT instead of an INPUT."),
        frames: int | None = typer.Option(None, "--frames", help="Keyframes; default: as the preset says."),
        pairs: str = typer.Option("sequential", "--pairs", help="sequential or exhaustive."),
        out: Path = OUT,
        quick: bool = QUICK,
        seeds: int | None = typer.Option(None, "--seeds", min=1, max=100, help="Runs of each method (default 1)."),
        methods: str = METHODS,
        budget: int = BUDGET,
        threads: int = THREADS,
        override: list[str] = typer.Option(
            [], "-o", "--override", help="section.key=value of the runs, for every method.", metavar="KEY=VALUE"
        ),
        silent: bool = SILENT,
    ):
        """Front ends on your own pictures: verified matches, registered frames, points."""
        from medrecon.bench.methods import split_names

        if demo == (path is not None):
            raise ConfigError("give an INPUT or --demo", "medrecon bench front-ends clip.mp4 --out runs/front-ends")
        options = {"input": path, "frames": frames, "methods": split_names(methods), "budget": budget, "pairs": pairs}
        options |= {"threads": threads, "overrides": tuple(override)}
        _run("front-ends", options, out, quick, seeds or 1, silent)

    for name, says in STUDIES.items():
        group.command(name, help=says)(_study((name,)))
    group.command("all", help="Every table and figure of the paper, matching, fields and speed: one folder, one page.")(
        _study((*STUDIES, "matching", "speed"))
    )

    @group.command("compare")
    def compare_command(
        first: Path = typer.Argument(..., metavar="A", help="Folder of results."),
        second: Path = typer.Argument(..., metavar="B", help="Another."),
    ):
        """What moved from A to B by more than the spread over seeds; ends with code 1 when something did."""
        from medrecon.bench.suite.compare import compare

        moves, alone = compare(first, second)
        for m in moves:
            print(f"{m.where}: {m.figure} {m.before:.4g} -> {m.after:.4g}")
        for text in alone:
            print(text)
        print(f"{len(moves)} figures moved" if moves else "nothing moved beyond the spread")
        if moves:
            raise typer.Exit(1)

    @group.command("speed")
    def speed(
        out: Path = OUT,
        quick: bool = QUICK,
        only: str = typer.Option("", "--only", help="Only rows whose op, kind or size contains this.", metavar="NAME"),
        device: str = typer.Option("cpu", "--device", help="cpu or cuda."),
        threads: int = THREADS,
        compile: bool = typer.Option(True, "--compile/--no-compile", help="Also under torch.compile: minutes more."),
        silent: bool = SILENT,
    ):
        """The ops, the training step and rendering beside plain torch and the machine's own limits."""
        from medrecon.bench.speed import report
        from medrecon.bench.speed.measure import run

        results = run(out, device, quick, only, threads, compile, _nothing if silent else partial(print, flush=True))
        written = report.write(results, out)
        print(report.markdown(results))
        print(f"results   {', '.join(str(path) for path in [out / 'results.json', *written])}")

    @group.command("shipping-rule")
    def shipping_rule_command(
        path: Path = typer.Argument(..., metavar="RESULTS.json", help="Of `medrecon bench matching`, not a quick one."),
        ours: str = typer.Option("superpoint-medrecon+superglue-medrecon", "--ours", help="The row with our weights."),
        baseline: str = typer.Option("sift+nearest-neighbour", "--baseline", help="The row of SIFT + ratio test."),
        as_json: bool = typer.Option(False, "--json", help="For programs."),
    ):
        """Whether weights of our own may become a default: the rule, its figures and the verdict."""
        from medrecon.bench.shipping_rule import judge, read_results

        verdict = judge(read_results(path), ours, baseline)
        print(json.dumps(verdict.to_dict(), indent=1) if as_json else f"{verdict.table}\n{verdict.text()}")

    @group.command("run")
    def run_command(
        name: str = typer.Argument(..., help="A benchmark of `medrecon bench list`."),
        out: Path = OUT,
        quick: bool = QUICK,
        seeds: int | None = SEEDS,
        override: list[str] = typer.Option([], "-o", "--override", help="option=value of the benchmark."),
        silent: bool = SILENT,
    ):
        """Any benchmark by name, such as a plugin's."""
        _run(name, _options(override), out, quick, seeds, silent)

    return group


def _run(name: str, options: dict[str, Any], out: Path, quick: bool, seeds: int | None, silent: bool) -> None:
    import medrecon
    from medrecon.pipeline.display import Display

    benchmark = medrecon.create("benchmark", name, **options)
    out.mkdir(parents=True, exist_ok=True)
    display = Display(quiet=silent)
    with display.during(name, f"benchmark {name}"):
        benchmark.run(out, quick, seeds or (1 if quick else 3), display)
    for table in sorted(out.glob("*.md")):
        print(table.read_text(encoding="utf-8"))
    print(f"results   {out / 'results.json'}")


STUDIES = {
    "table1": "The paper's table 1: what structure from motion makes of every front end's matches, on three sequences.",
    "table2": "The paper's table 2: held-out views of one radiance field on every front end's poses.",
    "fig4": "The paper's figure 4: the keypoints of every front end over a picture of each sequence.",
    "fig5": "The paper's figure 5: 40 to 100 pictures, ours and the classical NeRF, with equal rays and in equal time.",
    "fig6": "The paper's figure 6: PSNR and time of its mip-NeRF with 1, 2 and 3 hidden layers.",
    "fig7": "The paper's figure 7: spread of the mean absolute error over the number of pictures.",
    "fig8": "The paper's figure 8: spread of the normalised RMSE over the number of pictures.",
    "radiance": "Every radiance field on true poses, with the same pictures, held-out views and time.",
}


def _study(names: tuple[str, ...]) -> Callable[..., None]:
    def command(
        out: Path = OUT,
        quick: bool = QUICK,
        seeds: int | None = typer.Option(None, "--seeds", min=1, max=100, help="Runs of each method (default 1)."),
        methods: str = METHODS,
        budget: int = BUDGET,
        sequences: Path | None = typer.Option(
            None, "--sequences", help="Folder of sequences (YAML); default: benchmarks/sequences of the source."
        ),
        only: str = typer.Option(
            "", "--only", help="Comma-separated sequences and twins, such as brain,ct-bone@noisy."
        ),
        path: list[str] = typer.Option(
            [], "--path", metavar="NAME=PATH", help="Your own file for a sequence that needs one: endoscopy=clip.mp4."
        ),
        jobs: int = typer.Option(1, "--jobs", min=1, max=256, help="Runs at a time; give them --threads each."),
        threads: int = THREADS,
        silent: bool = SILENT,
    ):
        from medrecon.bench.methods import split_names
        from medrecon.bench.suite.command import run_study
        from medrecon.pipeline.display import Display

        own = _paths(path)
        display = Display(quiet=silent)
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            with display.during(name, f"benchmark {name}"):
                files = run_study(
                    name, out, display, quick=quick, seeds=seeds or 1, jobs=jobs, threads=threads, budget=budget,
                    methods=split_names(methods), sequences=sequences, only=tuple(n for n in only.split(",") if n),
                    paths=own,
                )  # fmt: skip
            print(next(f for f in files if f.suffix == ".md").read_text(encoding="utf-8"))
            print(f"results   {', '.join(map(str, files))}")

    return command


def _paths(texts: list[str]) -> dict[str, Path]:
    """ "NAME=PATH" of --path.  Raises ConfigError: not of that form, or no such file."""
    out = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"--path {text!r} is not NAME=PATH", "for example --path endoscopy=clip.mp4")
        if not Path(path).exists():
            raise ConfigError(f"there is no {path}", "give the file or folder of pictures after the =")
        out[name] = Path(path)
    return out


def _nothing(text: str) -> None:
    pass


def _options(overrides: list[str]) -> dict[str, Any]:
    from medrecon.config.run_config import merge, parse_override

    out: dict[str, Any] = {}
    for text in overrides:
        out = merge(out, parse_override(text))
    return out


def _volume(text: str) -> dict[str, str]:
    """ "brain.nii.gz,transfer=brain-surface,crop=brain" -> options of one volume."""
    path, *rest = text.split(",")
    found = {"path": path}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals or key not in ("transfer", "crop"):
            raise ConfigError(f"--volume {text!r}: {part!r} is not understood", "PATH,transfer=NAME,crop=NAME")
        found[key] = value
    return found

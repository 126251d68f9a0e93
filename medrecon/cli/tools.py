# SPDX-License-Identifier: Apache-2.0
"""Commands that work alone: on a finished run, on a volume, on DICOM files."""

from __future__ import annotations

from pathlib import Path

import typer

from medrecon.errors import ConfigError, InputError


def _finished(run: Path):
    from medrecon.runfolder import RunFolder

    if not (run / "manifest.json").is_file():
        raise InputError(f"{run} is not the folder of a run", "give the --out folder of a run")
    return RunFolder(run)


def _numbers(text: str, count: int, what: str) -> list[float]:
    try:
        values = [float(v) for v in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise ConfigError(f"{what} {text!r} is not {count} numbers", f"write it as {','.join('123'[:count])}")
    return values


def add(app: typer.Typer) -> None:
    @app.command("measure")
    def measure(
        run: Path = typer.Argument(..., help="Folder of a run."),
        start: str | None = typer.Option(
            None, "--from", help="First point, x,y,z in the run's world.", metavar="X,Y,Z"
        ),
        end: str | None = typer.Option(None, "--to", help="Second point.", metavar="X,Y,Z"),
        frame: int | None = typer.Option(None, "--frame", help="Frame whose pixels --pixel means."),
        pixel: list[str] = typer.Option(
            [], "--pixel", help="Two pixels of --frame; the surface under them is used.", metavar="X,Y"
        ),
    ):
        """Print the measurements of a run, or the distance between two points with its uncertainty."""
        folder = _finished(run)
        if pixel or frame is not None:
            from medrecon.surface.measure import measure_pixels

            if frame is None or len(pixel) != 2:
                raise ConfigError("--frame and two --pixel go together", "--frame 12 --pixel 310,204 --pixel 355,260")
            print_distance(measure_pixels(folder, frame, *(_numbers(p, 2, "--pixel") for p in pixel)))
        elif start or end:
            import numpy as np

            from medrecon.surface.measure import measure_distance

            if not (start and end):
                raise ConfigError("--from and --to go together", "--from 0,0,0 --to 10,0,0")
            print_distance(
                measure_distance(folder, *(np.array(_numbers(*p)) for p in ((start, 3, "--from"), (end, 3, "--to"))))
            )
        else:
            from medrecon.cli.runs import print_metrics

            print_metrics(folder.result, {m.name: m for m in folder.metrics})

    @app.command("export")
    def export(
        run: Path = typer.Argument(..., help="Folder of a run."),
        formats: list[str] = typer.Option(
            ["ply"], "--format", help="ply, obj, stl, nifti, colmap, transforms or a plugin's."
        ),
        out: Path = typer.Option(..., "--out", help="Folder for the files."),
    ):
        """Write a finished run in other formats."""
        import medrecon

        folder = _finished(run)
        made = [medrecon.create("exporter", name) for name in formats]
        out.mkdir(parents=True, exist_ok=True)
        for exporter in made:
            for path in exporter.export(folder, out):
                print(path)

    @app.command("render")
    def render(
        run: Path = typer.Argument(..., help="Folder of a run."),
        out: Path = typer.Option(..., "--out", help="Folder for the pictures."),
        poses: Path | None = typer.Option(
            None, "--poses", help="transforms.json of the poses, in the frame and unit of the run's exports."
        ),
        path: str = typer.Option("auto", "--path", help="Without --poses: orbit, cameras (through the training's)."),
        frames: int = typer.Option(48, "--frames", min=1, max=10_000, help="Pictures along the path."),
        size: int = typer.Option(800, "--size", min=8, max=8192, help="Longer side in pixels, at most."),
        appearance: str = typer.Option("mean", "--appearance", help="zero, mean, nearest (in place)."),
        maps: bool = typer.Option(True, help="Median depth, depth uncertainty and normals beside the pictures."),
        fps: int = typer.Option(12, "--fps", min=1, max=60, help="Pictures per second of stills.mp4."),
    ):
        """Render a finished run from given poses or along a path: PNG, depth, maps, and a video."""
        from medrecon.pipeline.display import Display
        from medrecon.radiance.stills import render_stills

        for name, value, known in (
            ("--path", path, ("auto", "orbit", "cameras")),
            ("--appearance", appearance, ("zero", "mean", "nearest")),
        ):
            if value not in known:
                raise ConfigError(f"{name} {value!r} is not known", f"one of {', '.join(known)}")
        made = render_stills(
            _finished(run), out, Display(), poses=poses, path=path, frames=frames, size_px=size, appearance=appearance,
            maps=maps, fps=fps,
        )  # fmt: skip
        print(f"{len(made)} pictures in {made[0].parent}")

    @app.command("view")
    def view(run: Path = typer.Argument(..., help="Folder of a run.")):
        """Open the report of a run in the browser."""
        report = _finished(run).root / "report.html"
        if not report.is_file():
            raise InputError(f"{run} has no report yet", "run it to the end")
        print(report)
        typer.launch(str(report))

    app.add_typer(_volume(), name="volume", help="Look at CT and MR volumes.")

    @app.command("views")
    def views(
        path: Path = typer.Argument(..., help="NIfTI, NRRD or DICOM volume.", metavar="VOLUME"),
        out: Path = typer.Option(..., "--out", help="Folder for pictures and truth."),
        override: list[str] = typer.Option(
            [], "-o", "--override", help="option=value of the views source.", metavar="KEY=VALUE"
        ),
    ):
        """Render pictures of a volume, with camera poses, depth and masks as truth."""
        import medrecon
        from medrecon.config.run_config import merge, parse_override
        from medrecon.pipeline.display import Display

        options: dict = {}
        for text in override:
            options = merge(options, parse_override(text))
        frames = medrecon.create("source", "views", path=path, **options).read(out, Display())
        frames.save(out / "frames.json")
        print(f"{len(frames)} pictures in {out / 'images'}, truth in {frames.truth_path}")

    @app.command("deidentify")
    def deidentify(
        path: Path = typer.Argument(..., help="DICOM file or folder.", metavar="DICOM"),
        out: Path = typer.Option(..., "--out", help="Empty or new folder for the copies."),
        key: str | None = typer.Option(None, "--key", help="Secret for remapping UIDs; the same key maps them alike."),
    ):
        """Copy DICOM files without identifiers (PS3.15 basic profile, UIDs remapped)."""
        from medrecon.pipeline.display import Display
        from medrecon.privacy.deidentify import deidentify_folder

        done = deidentify_folder(path, out, Display(), key=key.encode() if key else None)
        for warning in done.warnings:
            print(f"warning: {warning}")
        print(f"{done.n_written} written to {out}")
        print(f"left out: {done.n_left_out} without pictures, {done.n_ignored} that are not DICOM")


def print_distance(distance) -> None:
    """One distance on one line."""
    sigma = distance.sigma if distance.sigma is not None else distance.sigma_local
    print(f"{distance.value:.4g} ± {sigma:.2g} {distance.unit}" + (f"  ({distance.note})" if distance.note else ""))


def _volume() -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

    @group.command("info")
    def info(path: Path = typer.Argument(..., help="NIfTI, NRRD or DICOM volume.")):
        """Size, spacing, orientation and values of a volume, without identifiers."""
        from medrecon.ingest.volume import describe, load_volume

        for name, value in describe(load_volume(path)):
            print(f"{name:14} {value}")

    @group.callback()
    def _keep_as_group():
        pass

    return group

# SPDX-License-Identifier: Apache-2.0
"""The stages in order: what each depends on, which part of the configuration it reads, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrecon.config.run_config import RunConfig
from medrecon.errors import InputError
from medrecon.progress import Progress
from medrecon.runfolder import RunFolder

if TYPE_CHECKING:
    from medrecon.radiance.team import Team


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage is given.

    Attributes:
        config: the whole resolved run.
        run: the stages that are done, and this one's folder while it is being written.
        out: folder to write into; files found there were left by a killed run with the same settings.
        device: "cpu" or "cuda".
        progress: where to say how far it is.
        build: makes the component a section picked.
        team: processes that do the work of a shared stage together; None in other stages.
    """

    config: RunConfig
    run: RunFolder
    out: Path
    device: str
    progress: Progress
    build: Callable[[Any], Any]
    team: "Team | None" = None

    @property
    def seed(self) -> int:
        return self.config.options.seed

    def component(self, section: str) -> Any:
        return self.build(self.config.sections[section])


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        name: also its folder below OUT/stages.
        needs: stages whose results it reads.
        sections: parts of the configuration it depends on.
        call: does the work.
        version: raise it when the same input gives another output.
        seeded, on_device: whether the seed and the device and thread count change its result.
        shared: all processes of a run do it together; their number changes its result.
        summary: one line for --dry-run.
    """

    name: str
    needs: tuple[str, ...]
    sections: tuple[str, ...]
    call: Callable[[Work], None]
    summary: str
    version: int = 1
    seeded: bool = False
    on_device: bool = False
    shared: bool = False


def _source(w: Work) -> None:
    frames = w.component("source").read(w.out, w.progress).validate()
    frames.save(w.out / "frames.json")
    w.progress.say(f"{len(frames)} frames from {frames.source}")


def _keyframes(w: Work) -> None:
    frames = w.component("keyframes").select(w.run.source_frames, w.progress).validate()
    if len(frames) < 2:
        raise InputError(
            f"{len(frames)} usable frame(s): reconstruction needs several views of the same anatomy",
            "give more pictures, or relax the keyframes section",
        )
    frames.save(w.out / "frames.json")
    w.progress.say(f"kept {len(frames)} of {len(frames) + len(frames.dropped)} frames")


def _masks(w: Work) -> None:
    from medrecon.ingest.masks import write_masks

    write_masks(w.run.frames, w.config.sections["masks"].options, w.out, w.progress).validate().save(
        w.out / "frames.json"
    )


def _features(w: Work) -> None:
    from medrecon.features.extract import extract_all
    from medrecon.ingest.modality import preprocessing

    frames = w.run.frames
    prepare = preprocessing(w.config.sections["modality"].options, frames, w.progress)
    extract_all(frames, w.component("features"), w.out, w.progress, prepare)


def _matching(w: Work) -> None:
    from medrecon.matching.rounds import match_rounds

    pairing, matcher = w.component("pairing"), w.component("matching")
    options = w.config.sections["verification"].options
    match_rounds(w.run.frames, w.run.features, pairing, matcher, options, w.out, w.seed, w.progress)


def _sfm(w: Work) -> None:
    from medrecon.sfm.reconstruct import reconstruct

    scale = w.config.sections["scale"].options
    reconstruct(w.run.frames, w.run.features, w.run.graph, w.component("sfm"), scale, w.out, w.seed, w.progress)


def _radiance(w: Work) -> None:
    from medrecon.radiance.train import train

    training = w.config.sections["training"].options
    train(w.run.frames, w.run.sparse, w.component("radiance"), training, w.out, w.seed, w.device, w.progress, w.team)


def _render(w: Work) -> None:
    from medrecon.radiance.rendering import render_views

    render_views(w.run, w.config.sections["render"].options, w.out, w.device, w.progress)


def _surface(w: Work) -> None:
    from medrecon.surface.extract import extract

    extract(w.run, w.component("surface"), w.out, w.device, w.progress)


def _analysis(w: Work) -> None:
    from medrecon.analysis.analyse import analyse

    chosen = [(s.component.name, w.build(s)) for s in w.config.lists["analysis"]]
    analyse(w.run, chosen, w.out, w.progress)


def _export(w: Work) -> None:
    w.progress.begin(len(w.config.lists["export"]), "formats")
    for section in w.config.lists["export"]:
        for path in w.build(section).export(w.run, w.out):
            w.progress.say(f"{section.component.name}: {Path(path).name}")
        w.progress.advance()


STAGE_LIST: tuple[Stage, ...] = (
    Stage("source", (), ("source",), _source, "read or render the pictures"),
    Stage("keyframes", ("source",), ("keyframes",), _keyframes, "choose sharp, well exposed, moving frames"),
    Stage("masks", ("keyframes",), ("masks",), _masks, "mask endoscope border, glare and user regions"),
    Stage("features", ("masks",), ("modality", "features"), _features, "find keypoints and descriptors"),
    Stage(
        "matching",
        ("features",),
        ("pairing", "matching", "verification"),
        _matching,
        "match and verify pairs",
        seeded=True,
    ),
    Stage("sfm", ("matching",), ("sfm", "scale"), _sfm, "camera poses and sparse points", version=3, seeded=True),
    Stage(
        "radiance",
        ("sfm",),
        ("radiance", "training"),
        _radiance,
        "train the radiance field",
        version=2,
        seeded=True,
        on_device=True,
        shared=True,
    ),
    Stage("render", ("radiance",), ("render",), _render, "held-out views and path videos", version=3, on_device=True),
    Stage("surface", ("radiance",), ("surface",), _surface, "surface of the anatomy", version=2, on_device=True),
    Stage("analysis", ("render", "surface"), ("analysis",), _analysis, "measurements, and comparison with truth"),
    Stage("export", ("surface",), ("export",), _export, "files for other programs"),
)
STAGES = {s.name: s for s in STAGE_LIST}

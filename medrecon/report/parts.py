# SPDX-License-Identifier: Apache-2.0
"""The parts of a run as far as they exist. What is missing is said in words that name no path."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from medrecon.errors import MedreconError
from medrecon.radiance.renders import Renders
from medrecon.runfolder import FeatureFolder, RunFolder
from medrecon.types import FrameSet, MatchGraph, Mesh, Metric, SparseModel
from medrecon.types.storage import read_json

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """Something a run may have. ``why`` says why ``value`` is None."""

    value: T | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One line of history.json."""

    step: int
    loss: float
    psnr_db: float | None
    heldout_psnr_db: float | None


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the report is made of."""

    source: Part[FrameSet]
    frames: Part[FrameSet]
    features: Part[FeatureFolder]
    graph: Part[MatchGraph]
    sparse: Part[SparseModel]
    refinement: Part[str]
    history: Part[tuple[TrainingStep, ...]]
    renders: Part[Renders]
    mesh: Part[Mesh]
    metrics: Part[list[Metric]]
    manifest: Part[dict]


def _part(run: RunFolder, stage: str | None, read: Callable[[], T]) -> Part[T]:
    if stage is not None and not run.has(stage):
        return Part(None, f"The run has not reached the {stage} stage.")
    try:
        return Part(read())
    except (MedreconError, OSError, KeyError, ValueError, TypeError, IndexError, AttributeError):
        what = f"What the {stage} stage wrote" if stage else "The record of the run"
        return Part(None, f"{what} is not there or cannot be read; run again with --force {stage or 'report'}.")


def _history(folder: Path) -> tuple[TrainingStep, ...]:
    number = lambda x: None if x is None else float(x)  # noqa: E731
    return tuple(
        TrainingStep(int(h["step"]), float(h["loss"]), number(h.get("psnr_db")), number(h.get("heldout_psnr_db")))
        for h in read_json(folder / "history.json")
    )


def _refinement(run: RunFolder) -> str:
    """What the training did to the poses, in words; empty where it left them alone."""
    from medrecon.radiance.pose_refinement import describe

    facts = run.pose_refinement
    if facts is None:
        return ""
    return f"{describe(facts, run.sparse.scale)}. The curve is drawn from the held-out views' unrefined poses."


def _mapping(data: Any) -> dict:
    if not isinstance(data, dict):
        raise ValueError("not a mapping")
    json.dumps(data)
    return data


def gather(run: RunFolder) -> Parts:
    """Read what the run has; never raises for something that is missing or broken."""
    return Parts(
        source=_part(run, "source", lambda: run.source_frames),
        frames=_part(run, "source", lambda: run.frames),
        features=_part(run, "features", lambda: run.features),
        graph=_part(run, "matching", lambda: run.graph),
        sparse=_part(run, "sfm", lambda: run.posed),
        refinement=_part(run, "radiance", lambda: _refinement(run)),
        history=_part(run, "radiance", lambda: _history(run.stage_dir("radiance"))),
        renders=_part(run, "render", lambda: Renders.load(run.stage_dir("render"))),
        mesh=_part(run, "surface", lambda: run.mesh),
        metrics=_part(run, "analysis", lambda: run.metrics),
        manifest=_part(run, None, lambda: _mapping(run.manifest)),
    )

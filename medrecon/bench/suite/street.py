# SPDX-License-Identifier: Apache-2.0
"""Configurations of the suite's runs: a sequence, a front end, and what is trained on its poses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrecon.bench.methods import Method
from medrecon.bench.suite.cases import Case
from medrecon.bench.suite.runner import run_cases
from medrecon.bench.suite.sequences import BenchSequence
from medrecon.config.run_config import load_config, merge
from medrecon.progress import Progress
from medrecon.runfolder import RunFolder

KEYFRAMES, HOLD_EVERY = 50, 8
QUICK_STEPS, STEPS = 40, 1000
PLACEHOLDER = {"features": {"name": "sift"}, "matching": {"name": "nearest-neighbour"}}


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """What all tables share.

    Attributes:
        out: folder of runs, records and results; tables in the same folder share their runs.
        sequences, methods: what is compared.
        published: folder of the paper's values.
        seeds: draws of everything random.
        quick: tiny, to see that everything works.
        jobs: runs at a time.
        threads: CPU threads of a run; 0: all cores.
        peers: other programs that join in, by name.
        budget: keypoints a picture.
    """

    out: Path
    sequences: tuple[BenchSequence, ...]
    methods: tuple[Method, ...]
    published: Path
    seeds: int = 1
    quick: bool = False
    jobs: int = 1
    threads: int = 0
    peers: tuple[str, ...] = ()
    budget: int = 1024

    @property
    def steps(self) -> int:
        return QUICK_STEPS if self.quick else STEPS


def street(
    sequence: BenchSequence, method: Method | None, seed: int, o: SuiteOptions, more: dict[str, Any], keyframes: bool
):
    """Configuration of one run.

    Args:
        method: None for the pictures alone.
        more: what the table changes: radiance, training, render.
        keyframes: about 50 of the pictures, as the paper's tables; else all of them.
    """
    fixed: dict[str, Any] = {
        "version": 1,
        "name": sequence.name.replace("@", " "),
        "seed": seed,
        "threads": o.threads,
        "keyframes": {"name": "quality", "target": KEYFRAMES} if keyframes and not o.quick else {"name": "all"},
        "pairing": {"name": "sequential", "overlap": 6, "quadratic": False, "loop_every": 0},
        "sfm": {"refine_tracks": False},
        **PLACEHOLDER,
    }
    if method is not None:
        fixed["features"] = {"name": method.extractor, **method.extractor_options}
        fixed["matching"] = {"name": method.matcher, **method.matcher_options}
    return load_config(merge(merge(sequence.config, fixed), more))


def pictures_case(sequence: BenchSequence, o: SuiteOptions, keyframes: bool) -> Case:
    labels = {"sequence": sequence.name, "method": "keyframes" if keyframes else "pictures"}
    return Case(labels, street(sequence, None, 0, o, {}, keyframes), "masks")


def front_end_cases(o: SuiteOptions) -> list[Case]:
    """Every sequence with every method and seed, up to the sparse model."""
    return [
        Case(_labels(s, m, seed), street(s, m, seed, o, {}, keyframes=True), "sfm")
        for s in o.sequences
        for m in o.methods
        for seed in range(o.seeds)
    ]


def heldout_ids(o: SuiteOptions, keyframes: bool, progress: Progress) -> dict[str, tuple[int, ...]]:
    """By sequence, the frames that are held out for everyone: every 8th picture. Makes the pictures first."""
    cases = {s.name: pictures_case(s, o, keyframes) for s in o.sequences}
    run_cases(list(cases.values()), o.out, o.jobs, progress)
    out = {}
    for name, case in cases.items():
        run = RunFolder(o.out / "runs" / case.name, done={"source", "keyframes", "masks"})
        out[name] = tuple(sorted(run.frames.by_id())[HOLD_EVERY // 2 :: HOLD_EVERY])
    return out


def radiance_cases(o: SuiteOptions, progress: Progress) -> list[Case]:
    """As the front ends' cases, but with a radiance field on the poses of each: the same field and steps for all."""
    held = heldout_ids(o, True, progress)
    cases = []
    for s in o.sequences:
        more = {
            "radiance": {"name": "mipgrid"},
            "training": {"iterations": o.steps, "heldout_ids": list(held[s.name]), "evaluate_every": 0},
            "render": {"path_frames": 0, "maps": False},
        }
        for m in o.methods:
            for seed in range(o.seeds):
                config = street(s, m, seed, o, more, keyframes=True)
                cases.append(Case({**_labels(s, m, seed), "field": "mipgrid"}, config, "render", held[s.name]))
    return cases


def _labels(sequence: BenchSequence, method: Method, seed: int) -> dict[str, Any]:
    return {"sequence": sequence.name, "method": method.name, "seed": seed}

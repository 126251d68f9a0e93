# SPDX-License-Identifier: Apache-2.0
"""`medrecon bench table1 | table2 | fig4 | ... | all`: from options to files."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medrecon.bench.methods import left_out, parse
from medrecon.bench.plots import require_matplotlib
from medrecon.bench.suite import colmap, fields, figures, keypoints, others, outputs, plots, tables
from medrecon.bench.suite.page import write_page
from medrecon.bench.suite.sequences import default_folder, load_sequences
from medrecon.bench.suite.street import SuiteOptions
from medrecon.errors import InputError
from medrecon.progress import Progress

STUDIES = {
    "table1": tables.table1,
    "table2": tables.table2,
    "fig4": keypoints.over_images,
    "fig5": figures.over_counts,
    "fig6": figures.over_layers,
    "fig7": figures.spread("mae"),
    "fig8": figures.spread("nrmse"),
    "matching": others.matching,
    "radiance": fields.in_the_same_time,
    "speed": others.speed,
}
PAPER_METHODS = (
    "superpoint+superglue-outdoor",
    "superpoint-medrecon+superglue-medrecon",
    "sift+nearest-neighbour",
    "surf+nearest-neighbour",
    "orb+nearest-neighbour",
    "disk+lightglue",
)
PEERS = (colmap.NAME,)
QUICK_METHODS = ("sift+nearest-neighbour", "orb+nearest-neighbour")


def run_study(
    name: str,
    out: Path,
    progress: Progress,
    *,
    quick: bool,
    seeds: int,
    jobs: int,
    threads: int,
    budget: int,
    methods: tuple[str, ...],
    sequences: Path | None,
    only: tuple[str, ...],
    paths: dict[str, Path] | None = None,
) -> list[Path]:
    """Files of the table NAME in ``out``; tables in the same folder share their runs.

    Raises:
        ConfigError: unknown sequences or methods, or no matplotlib for a figure.
        InputError: not one sequence has its volume here.
        StageError: not one method can be run.
    """
    from medrecon.pipeline.manifest import machine, package_versions

    if name in plots.DRAWN:
        require_matplotlib()  # better before the hours than after
    folder = default_folder() if sequences is None else Path(sequences)
    found, missing = load_sequences(folder, only, quick, paths)
    for sequence, why in missing.items():
        progress.say(f"{sequence} is left out: {why}")
    if not found:
        raise InputError("not one sequence can be made here: " + "; ".join(missing.values()))
    peers = PEERS if not methods else tuple(m for m in methods if m in PEERS)
    methods = tuple(m for m in methods if m not in PEERS)
    parsed = parse(methods or (QUICK_METHODS if quick else PAPER_METHODS), budget, {})
    skipped = left_out(parsed, progress)
    used = tuple(m for m in parsed if m.name not in skipped)
    options = SuiteOptions(
        Path(out), tuple(found), used, folder.parent / "published", seeds, quick, jobs, threads, peers, budget
    )
    results: dict[str, Any] = STUDIES[name](options, progress)
    left = [{"name": s.name, "reason": s.reason, "command": s.command} for s in skipped.values()]
    left += [{"name": n, "reason": "not here", "command": why} for n, why in missing.items()]
    text = f"{budget} keypoints a picture, the same keyframes, pairs, verification and mapper for all; {seeds} seed" + (
        "s" if seeds > 1 else ""
    )
    results |= {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "about": {"text": text + (", quick: does it work, not who is best" if quick else ""),
                  "titles": {s.name: s.title for s in found}},
        "quick": quick, "seeds": seeds, "budget": budget, "threads": threads, "skipped": left,
        "machine": machine(), "versions": package_versions(),
    }  # fmt: skip
    files = outputs.write(name, results, Path(out), options.published)
    files += plots.draw(name, results, Path(out))
    page = write_page(Path(out))
    return [*files, page]

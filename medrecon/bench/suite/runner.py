# SPDX-License-Identifier: Apache-2.0
"""Runs the cases of a table: what is done already is read, the rest takes turns, and one says beforehand how long."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from medrecon.bench.relay import Relay
from medrecon.bench.suite.cases import Case, key_of, run_case
from medrecon.pipeline.display import Display, duration
from medrecon.pipeline.stages import STAGE_LIST
from medrecon.progress import Progress
from medrecon.types.storage import read_json, write_json

# Seconds on two CPU cores, of a case by its last stage, where this folder has not seen a like one yet.
TYPICAL_S = {"masks": 60.0, "sfm": 90.0, "render": 60.0}


def run_cases(cases: Sequence[Case], out: Path, jobs: int, progress: Progress) -> dict[str, dict[str, Any]]:
    """Records by case name, in the order of the cases; kept in ``out``/cases, run folders in ``out``/runs.

    Cases that end early go first, so that the others find what they have in common with them done. A record is taken
    again only if it was made with exactly the same configuration, weights and versions.

    Args:
        jobs: processes at a time. Each run uses the threads its configuration says.

    Raises:
        MedreconError: pictures cannot be made or used, which is no front end's fault.
    """
    runs, records = out / "runs", out / "cases"
    records.mkdir(parents=True, exist_ok=True)
    unique = {c.name: c for c in cases}
    done = {n: r for n, c in unique.items() if (r := _kept(c, runs, records)) is not None}
    todo = [c for n, c in unique.items() if n not in done]
    if todo:
        progress.say(
            f"{len(unique)} runs, {len(done)} of them done; about {duration(forecast(todo, records) / jobs)} to go"
        )
    progress.begin(len(todo), "runs")
    order = [s.name for s in STAGE_LIST]
    for stage in sorted({c.until for c in todo}, key=order.index):
        for case, record in _turns([c for c in todo if c.until == stage], runs, jobs, progress):
            write_json(records / f"{case.name}.json", record)
            done[case.name] = record
            progress.say(f"{case.name}: " + (f"failed: {record['failed']}" if record["failed"] else "done"))
            progress.advance(1)
    return {n: done[n] for n in unique}


def _kept(case: Case, runs: Path, records: Path) -> dict[str, Any] | None:
    path = records / f"{case.name}.json"
    if not path.is_file():
        return None
    record = read_json(path)
    same = record.get("key") == key_of(case, runs / case.name)
    return record if same and [v["frame_id"] for v in record["views"]] == list(case.heldout) else None


def _turns(cases: list[Case], runs: Path, jobs: int, progress: Progress):
    if jobs == 1 or len(cases) < 2:
        for case in cases:
            yield case, run_case(case, runs, Relay(progress, case.name))
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(run_case, case, runs, Display(quiet=True)): case for case in cases}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def forecast(cases: Sequence[Case], records: Path) -> float:
    """Seconds for the cases one after another, from those of the same kind that are done here, else typical ones."""
    seen: dict[str, list[float]] = {}
    for path in records.glob("*.json"):
        record = read_json(path)
        seen.setdefault(record["until"], []).append(record["own_s"])
    mean = {k: sum(v) / len(v) for k, v in seen.items()}
    return sum(mean.get(c.until, TYPICAL_S.get(c.until, 60.0)) for c in cases)

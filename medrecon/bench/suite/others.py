# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of matching and of speed as tables of the suite, so that one page and one comparison hold them all."""

from __future__ import annotations

from typing import Any

import medrecon
from medrecon.bench.suite.street import SuiteOptions
from medrecon.progress import Progress

GROUPS = ("views", "homography", "modality", "sweep")
MATCHING = ("repeatability", "mma_3px", "verified_matches", "pose_auc_10deg")


def matching(o: SuiteOptions, progress: Progress) -> dict[str, Any]:
    """`medrecon bench matching` on pairs of exactly known correspondence; its own files are in OUT/matching."""
    names = tuple(m.name for m in o.methods)
    benchmark = medrecon.create(
        "benchmark", "matching", methods=names, budget=o.budget, threads=o.threads, plots=not o.quick
    )
    results = benchmark.run(o.out / "matching", o.quick, o.seeds, progress)
    rows = []
    for group in (g for g in GROUPS if results["n_cases"].get(g)):
        for method, figures in results["figures"].items():
            row = {"sequence": group, "method": method, "seeds": results["seeds"], "failed": None}
            rows.append(row | {name: _figure(figures[group].get(name), results["seeds"]) for name in MATCHING})
    return {"rows": rows, "verdicts": []}


def _figure(entry: dict[str, Any] | None, seeds: int) -> dict[str, Any] | None:
    if entry is None or entry["mean"] is None:
        return None
    return {"mean": entry["mean"], "std": entry["std"] if seeds > 1 else None, "n": seeds}


def speed(o: SuiteOptions, progress: Progress) -> dict[str, Any]:
    """`medrecon bench speed` on the CPU; its own files are in OUT/speed."""
    from medrecon.bench.speed import report
    from medrecon.bench.speed.measure import run

    folder = o.out / "speed"
    results = run(folder, "cpu", o.quick, threads=o.threads, compile=not o.quick, say=progress.say)
    report.write(results, folder)
    rows = []
    for r in results["ops"]:
        row = {"sequence": "cpu", "method": f"{r['op']} {r['what']}", "size": r["size"], "seeds": 1, "failed": None}
        row["ms"] = {"mean": r["ms"], "std": r["spread"] * r["ms"], "n": 1}
        for name in ("eager", "compiled"):
            other = r["others"].get(name)
            row[f"over_{name}"] = other and {"mean": other["ratio"], "std": other["spread"] * other["ratio"], "n": 1}
        row["fraction"] = {"mean": 100 * r["fraction"], "std": None, "n": 1}
        rows.append(row)
    return {"rows": rows, "verdicts": []}

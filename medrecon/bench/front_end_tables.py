# SPDX-License-Identifier: Apache-2.0
"""results.md of the comparison of front ends, with the cases where each method is not the best."""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any

from medrecon.bench.tables import cell, markdown_table

# (figure, heading, digits, which is better)
COLUMNS = (
    ("keypoints", "keypoints", 0, ""), ("putative_per_pair", "putative/pair", 1, ""),
    ("verified_per_pair", "verified/pair", 1, "higher"), ("verified_pairs", "verified pairs", 0, "higher"),
    ("registered", "registered", 0, "higher"), ("points", "points", 0, "higher"),
    ("track_length", "track length", 2, "higher"), ("reprojection_px", "reprojection, px", 3, "lower"),
    ("focal_px", "focal length, px", 1, ""), ("ate_mm", "ATE, mm", 2, "lower"),
    ("features_s", "features, s", 1, "lower"), ("matching_s", "matching, s", 1, "lower"), ("sfm_s", "SfM, s", 1, ""),
)  # fmt: skip
NOTES = """\
The same keyframes, masks, pairs, verification and mapper for every method. putative: matches of the matcher;
verified: those that one two-view geometry explains, 0 for pairs without one; both are means over all pairs tried.
points: 3-D points of the largest model. ATE: root mean square distance of the camera centres from the true ones after
the best similarity. Look at the registered frames first: a low error over few frames is no merit."""


def markdown(results: dict[str, Any]) -> str:
    """The table of results.json, for people."""
    methods = list(dict.fromkeys(r["method"] for r in results["rows"]))
    figures = {m: {c[0]: _figure(results, m, c[0]) for c in COLUMNS} for m in methods}
    used = [c for c in COLUMNS if any(figures[m][c[0]]["mean"] is not None for m in methods)]
    n_pairs = max((r["pairs"] or 0 for r in results["rows"]), default=0)
    w, h = results["size_px"]
    parts = [
        "# Front ends compared\n",
        f"{results['source']}: {results['frames']} keyframes of {w}x{h} px, {n_pairs} pairs ({results['pairing']}), "
        f"budget {results['budget']} keypoints, {results['seeds']} seed(s), {results['machine']['cpu']}.\n",
        NOTES + "\n",
        markdown_table(
            ["method", *(c[1] for c in used)],
            [[m, *(cell(figures[m][name], digits) for name, _, digits, _ in used)] for m in methods],
        ),
    ]
    truth = next((r["true_focal_px"] for r in results["rows"] if r["true_focal_px"]), None)
    if truth:
        parts.append(f"True focal length: {truth:.1f} px.\n")
    if len(methods) > 1:
        parts += ["Best of each figure:\n", *_best(methods, figures, used), ""]
    failed = [f"- {r['method']} (seed {r['seed']}): {r['failed']}" for r in results["rows"] if r["failed"]]
    if failed:
        parts += ["Failed:\n", *failed, ""]
    if results["skipped"]:
        rows = [[s["name"], s["reason"], f"`{s['command']}`"] for s in results["skipped"]]
        parts += ["Not run:\n", markdown_table(["method", "reason", "what mends it"], rows)]
    return "\n".join(parts)


def _figure(results: dict[str, Any], method: str, name: str) -> dict[str, float | None]:
    values = [r[name] for r in results["rows"] if r["method"] == method and r[name] is not None]
    return {"mean": mean(values) if values else None, "std": stdev(values) if len(values) > 1 else None}


def _best(methods: list[str], figures: dict, columns) -> list[str]:
    lines = []
    for name, heading, digits, better in columns:
        known = [m for m in methods if figures[m][name]["mean"] is not None]
        if not better or not known:
            continue
        order = sorted(known, key=lambda m: figures[m][name]["mean"], reverse=better == "higher")
        best = [m for m in order if figures[m][name]["mean"] == figures[order[0]][name]["mean"]]
        lines.append(f"- {heading}: {', '.join(best)} ({cell(figures[best[0]][name], digits)})")
    return lines

# SPDX-License-Identifier: Apache-2.0
"""Results on disk: results.json, results.csv (a row per pair and method) and results.md."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from medrecon.types.storage import write_bytes_atomic

# (figure, heading, digits); a figure that a group does not have makes no column.
COLUMNS = (
    ("keypoints", "keypoints", 0), ("repeatability", "repeatability", 3),
    ("mma_1px", "MMA 1 px", 3), ("mma_3px", "MMA 3 px", 3), ("mma_5px", "MMA 5 px", 3),
    ("precision", "precision", 3), ("recall", "recall", 3),
    *((f"pose_auc_{t}deg", f"pose AUC {t}°", 3) for t in (5, 10, 20)),
    *((f"corner_auc_{t}px", f"corner AUC {t} px", 3) for t in (3, 5, 10)),
    ("matches", "matches/pair", 0), ("correct_matches", "correct/pair", 0), ("verified_matches", "verified/pair", 0),
)  # fmt: skip
COST = (("extract_ms", "extract, ms/picture (median)"), ("match_ms", "match, ms/pair (median)"))
BY_VARIATION = {"views": ("pose_auc_10deg", "recall"), "homography": (), "modality": ("mma_3px", "correct_matches")}
COVER = (
    ("keypoints", "keypoints", 0), ("occupied_cells", "cells occupied", 3), ("clark_evans", "Clark-Evans index", 3),
    ("low_texture_cells", "low-texture cells", 3),
)  # fmt: skip
GROUPS = {
    "views": "Views rendered from volumes with exact depth, by viewpoint change",
    "homography": "Homographies of real pictures",
    "modality": "Modality pairs: another transfer function or window, inverted contrast",
}
COVER_NOTE = """\
Cells of 16 px. Clark-Evans index: 1 is random, less is clustered, more is even. Low texture: the third of the object's
cells with the smallest gradient, and the share of them that hold a keypoint."""
NOTES = """\
Mean over pairs ± standard deviation over seeds. Keypoint budget, pictures and pairs are the same for every method.
A match is correct within 3 px of the truth; matches of points where the truth knows nothing (off the object) are not
judged. MMA: mean matching accuracy, the share of correct matches per pair, 0 where there are none. precision: the
same without the pairs that have none. recall: share of the matches that the keypoints allow. verified: inliers of a
robust fit (essential matrix with known intrinsics, or homography), right or wrong. AUC: area under the cumulative
curve of the pose error (greater of rotation and translation direction) or of the mean corner error."""


def cell(entry: dict | None, digits: int) -> str:
    """ "0.812 ± 0.013", "-" where there is no figure."""
    if not entry or entry["mean"] is None:
        return "-"
    spread = f" ± {entry['std']:.{digits}f}" if entry.get("std") is not None else ""
    return f"{entry['mean']:.{digits}f}{spread}"


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"


def _figures(methods: list[str], figures: dict[str, dict], columns, first: str = "method") -> str:
    used = [c for c in columns if any(figures[m].get(c[0], {}).get("mean") is not None for m in methods)]
    rows = [[m, *(cell(figures[m].get(name), digits) for name, _, digits in used)] for m in methods]
    return markdown_table([first, *(heading for _, heading, _ in used)], rows)


def markdown(results: dict) -> str:
    """The tables of results.json, for people."""
    methods = [m["name"] for m in results["methods"] if m["status"] == "ran"]
    facts = (
        f"{results['machine']['cpu']}, {results['threads']} threads, budget {results['budget']} keypoints, "
        f"{results['seeds']} seed(s), pictures of {results['size_px']} px"
    )
    quick = ", quick look (too few pairs to rank methods)" if results["quick"] else ""
    parts = ["# Matching benchmark\n", f"{facts}{quick}.\n", NOTES + "\n"]
    for group, title in GROUPS.items():
        if results["n_cases"].get(group):
            parts += [f"## {title}\n", f"{results['n_cases'][group]} pairs.\n"]
            parts.append(_figures(methods, {m: results["figures"][m][group] for m in methods}, COLUMNS))
            mine = [v for v in results["by_variation"] if v["group"] == group]
            parts += [_against(methods, mine, key) for key in BY_VARIATION[group]]
    sweeps = sorted({s["variation"] for s in results["sweeps"]})
    parts += ["## Sweeps: one picture of the pair changed more and more\n"] if sweeps else []
    for kind in sweeps:
        mine = [s for s in results["sweeps"] if s["variation"] == kind]
        parts.append(f"{kind}: {results['strength'][kind]}.\n")
        parts += [_against(methods, mine, key) for key in ("mma_3px", "correct_matches")]
    parts += ["## Where the keypoints lie\n", COVER_NOTE + "\n"]
    parts.append(_figures(methods, {m: results["figures"][m]["all"] for m in methods}, COVER))
    parts += ["## Cost\n", _cost(results)]
    skipped = [m for m in results["methods"] if m["status"] != "ran"]
    if skipped:
        rows = [[m["name"], m["reason"], f"`{m['command']}`" if m["command"] else ""] for m in skipped]
        parts += ["## Not run\n", markdown_table(["method", "reason", "what mends it"], rows)]
    return "\n".join(parts)


def _against(methods: list[str], entries: list[dict], key: str) -> str:
    """One figure of every method (rows) against what changes (columns)."""
    order = sorted({(e["variation"], e["strength"] or 0.0, e["label"]) for e in entries})
    _, heading, digits = next(c for c in COLUMNS if c[0] == key)
    at = {(e["method"], e["variation"], e["label"]): e["figures"].get(key) for e in entries}
    rows = [[m, *(cell(at.get((m, v, label)), digits) for v, _, label in order)] for m in methods]
    return markdown_table([heading, *(label for _, _, label in order)], rows)


def _cost(results: dict) -> str:
    rows = []
    for m in results["methods"]:
        if m["status"] == "ran":
            figures = results["figures"][m["name"]]["all"]
            times = [f"{figures[k]['median']:.1f}" for k, _ in COST]
            memory = "-" if m["peak_memory_mb"] is None else f"{m['peak_memory_mb']:.0f}"
            rows.append([m["name"], *times, memory, m["license"]])
    return markdown_table(["method", *(h for _, h in COST), "peak memory, MiB", "licences"], rows)


def write_csv(path: Path, rows: list[dict]) -> None:
    """One line per pair and method; columns are the union of the rows' keys, in order of appearance."""
    columns = list(dict.fromkeys(k for row in rows for k in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes_atomic(path, text.getvalue().encode())

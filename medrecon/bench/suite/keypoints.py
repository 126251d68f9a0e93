# SPDX-License-Identifier: Apache-2.0
"""Figure 4 of the paper: the keypoints of every front end over a picture, and how many of them its matches use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medrecon.bench.plots import new_figure
from medrecon.bench.suite.rows import figure
from medrecon.bench.suite.runner import run_cases
from medrecon.bench.suite.street import SuiteOptions, front_end_cases, heldout_ids
from medrecon.progress import Progress
from medrecon.runfolder import RunFolder

STAGES = {"source", "keyframes", "masks", "features", "matching"}
USED, UNUSED = "#37d637", "#ff8c1a"


def over_images(o: SuiteOptions, progress: Progress) -> dict[str, Any]:
    """Keypoints a picture, and the share of them that is in a verified match; the runs are those of table 1."""
    heldout_ids(o, True, progress)  # makes the pictures
    cases = [c for c in front_end_cases(o) if c.labels["seed"] == 0]
    rows = []
    for name, record in run_cases(cases, o.out, o.jobs, progress).items():
        labels, found = record["labels"], record["verified_per_pair"] is not None
        row = {"sequence": labels["sequence"], "method": labels["method"], "seeds": 1, "case": name}
        row["failed"] = None if found else record["failed"]
        row["keypoints"] = figure([record["keypoints"]])
        if found:
            run = RunFolder(o.out / "runs" / name, done=STAGES)
            used = verified(run)
            shares = [len(used[i]) / max(len(run.features[i]), 1) for i in used]
            row |= {"frame_id": sorted(used)[len(used) // 2], "verified_share": figure([float(np.mean(shares))])}
        rows.append(row)
    return {"rows": rows, "verdicts": []}


def verified(run: RunFolder) -> dict[int, np.ndarray]:
    """By frame, the indices of keypoints that are in a verified match."""
    used: dict[int, list[np.ndarray]] = {f.frame_id: [] for f in run.frames.frames}
    for pair in run.graph.pairs:
        for side, i in enumerate((pair.frame_id_a, pair.frame_id_b)):
            used[i].append(pair.putative.idx[pair.inliers, side])
    return {i: np.unique(np.concatenate(parts)) if parts else np.zeros(0, int) for i, parts in used.items()}


def draw(rows: list[dict[str, Any]], folder: Path):
    """A line for every sequence, a column for every front end, the middle picture of each."""
    sequences, methods = (list(dict.fromkeys(r[k] for r in rows)) for k in ("sequence", "method"))
    out, axes = new_figure(len(sequences), len(methods), 2.9, 3.2)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
    for r in rows:
        axis = axes[sequences.index(r["sequence"])][methods.index(r["method"])]
        run, i = RunFolder(folder / "runs" / r["case"], done=STAGES), r["frame_id"]
        image, xy = run.frames.by_id()[i].load_image(), run.features[i].xy
        used = np.isin(np.arange(len(xy)), verified(run)[i])
        axis.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
        for chosen, colour in ((~used, UNUSED), (used, USED)):
            axis.scatter(*xy[chosen].T, s=3, c=colour, linewidths=0)
        axis.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
        axis.set_title(f"{r['method']}\n{len(xy)} keypoints, {used.sum()} in verified matches (green)", fontsize=6)
    for axes_of_line, sequence in zip(axes, sequences):
        axes_of_line[0].set_ylabel(sequence, fontsize=8)
    return out

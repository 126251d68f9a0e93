# SPDX-License-Identifier: Apache-2.0
"""Tables 1 and 2 of the paper on sequences that can be had."""

from __future__ import annotations

from typing import Any

from medrecon.bench.suite import colmap
from medrecon.bench.suite.rows import Verdict, figure, head_of, leads, mean_ranks, over_seeds, view_mean
from medrecon.bench.suite.runner import run_cases
from medrecon.bench.suite.street import SuiteOptions, front_end_cases, heldout_ids, radiance_cases
from medrecon.progress import Progress

OURS = ("superpoint+superglue-outdoor", "superpoint+superglue-indoor", "superpoint-medrecon+superglue-medrecon")
SPARSE = ("putative_per_pair", "verified_per_pair", "registered", "points", "track_length", "reprojection_px", "ate_mm")
IMAGES = {"ssim": True, "psnr_db": True, "lpips": False, "ms_ssim": True}


def table1(o: SuiteOptions, progress: Progress) -> dict[str, Any]:
    """Matches, points, registered frames, reprojection error and trajectory error of every front end and peer."""
    held = heldout_ids(o, True, progress)  # also makes the pictures, once for all
    records = run_cases(front_end_cases(o), o.out, o.jobs, progress)
    if colmap.NAME in o.peers:
        records |= colmap.records(o, progress)
    rows = []
    for group in sorted(over_seeds(records), key=lambda g: list(held).index(g[0]["labels"]["sequence"])):
        row = head_of(group, "sequence", "method")
        row |= {name: figure(r.get(name) for r in group) for name in SPARSE}
        rows.append(row)
    verdicts = []
    for sequence in held:  # the paper compares front ends; other programs are there to be seen beside them
        mine = [r for r in rows if r["sequence"] == sequence and r["method"] not in o.peers]
        for name, words in (("verified_per_pair", "verified matches a pair"), ("points", "reconstructed points")):
            claim = f"SuperPoint + SuperGlue has the most {words} on {sequence}"
            verdicts.append(leads(claim, mine, name, OURS).to_dict())
    return {"rows": rows, "verdicts": verdicts}


def table2(o: SuiteOptions, progress: Progress) -> dict[str, Any]:
    """Quality of held-out views from the poses of every front end; views that failed count, and are counted."""
    table1(o, progress)  # the same poses
    records = run_cases(radiance_cases(o, progress), o.out, o.jobs, progress)
    rows = []
    for group in over_seeds(records):
        row = head_of(group, "sequence", "method")
        row["heldout"] = len(group[0]["views"])
        row["failed_views"] = figure(sum(not v["rendered"] for v in r["views"]) for r in group)
        row |= {name: figure(view_mean(r, name) for r in group) for name in IMAGES}
        rows.append(row)
    ranks = mean_ranks(rows, {n: IMAGES[n] for n in ("ssim", "psnr_db", "lpips")})
    return {"rows": rows, "verdicts": [_rank_verdict(ranks).to_dict()], "mean_ranks": ranks}


def _rank_verdict(ranks: dict[str, float]) -> Verdict:
    claim = "SuperPoint + SuperGlue has the best mean rank over SSIM, PSNR and LPIPS"
    mine = [m for m in ranks if m in OURS]
    if not mine or len(ranks) < 2:
        return Verdict(claim, "cannot be judged", "no row of SuperPoint + SuperGlue with all figures")
    first = next(iter(ranks))
    why = ", ".join(f"{m} {r:.2f}" for m, r in ranks.items())
    return Verdict(claim, "yes" if first in OURS else "no", why)

# SPDX-License-Identifier: Apache-2.0
"""Radiance fields side by side: the same pictures, true poses, held-out views and time for all."""

from __future__ import annotations

from typing import Any

import medrecon
from medrecon.bench.suite.cases import Case
from medrecon.bench.suite.rows import figure, head_of, over_seeds, view_mean
from medrecon.bench.suite.runner import run_cases
from medrecon.bench.suite.street import SuiteOptions, heldout_ids, street
from medrecon.errors import StageError
from medrecon.progress import Progress

MINUTES, QUICK_MINUTES = 0.5, 0.03
IMAGES = ("psnr_db", "ssim", "lpips", "ms_ssim")
NOT_PICTURES = ("xray",)  # its model holds for radiographs only


def in_the_same_time(o: SuiteOptions, progress: Progress) -> dict[str, Any]:
    """Every renderer that is installed, on every sequence whose true poses are known.

    Raises:
        StageError: there is no such sequence.
    """
    known = [s for s in o.sequences if s.config["source"]["name"] == "views"]
    if not known:
        raise StageError("fields are compared on true poses, which no sequence has", "see medrecon bench --help")
    held = heldout_ids(o, False, progress)
    fields = [c.name for c in medrecon.components("renderer") if c.name not in NOT_PICTURES]
    minutes = QUICK_MINUTES if o.quick else MINUTES
    cases = []
    for s in known:
        for name in fields:
            more = {
                "source": {"known_poses": True, "known_intrinsics": True},
                "sfm": {"name": "known-poses"},
                "radiance": {"name": name},
                "training": {"minutes": minutes, "heldout_ids": list(held[s.name]), "evaluate_every": 0},
                "render": {"path_frames": 0, "maps": False},
            }
            for seed in range(o.seeds):
                labels = {"sequence": s.name, "method": name, "seed": seed, "poses": "true"}
                cases.append(Case(labels, street(s, None, seed, o, more, keyframes=False), "render", held[s.name]))
    rows = []
    for group in over_seeds(run_cases(cases, o.out, o.jobs, progress)):
        row = head_of(group, "sequence", "method")
        row |= {name: figure(view_mean(r, name) for r in group) for name in IMAGES}
        row |= {f"{s}_s": figure(r["stage_seconds"].get(s) for r in group) for s in ("radiance", "render")}
        rows.append(row)
    return {"rows": rows, "verdicts": []}

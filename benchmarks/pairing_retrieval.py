# SPDX-License-Identifier: Apache-2.0
"""How many of the pairs that exhaustive matching verifies retrieval finds, with and without its second round.

RUN is the folder of any run that has features (`medrecon run ... --until features`). Matching and verification are
those of medrecon with nearest neighbours, the same for all rows; the order of the frames plays no part.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import medrecon
from medrecon.matching.rounds import match_rounds
from medrecon.matching.verification import VerificationConfig
from medrecon.progress import Quiet
from medrecon.runfolder import RunFolder
from medrecon.types import MatchGraph

# An image pair with this many inliers carries a reconstruction.
STRONG = 50


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        pairs, verified: counts.
        recall: share of the pairs verified by exhaustive matching that are verified here.
        recall_strong: the same of pairs with at least STRONG inliers.
        seconds: pairing, matching and verification.
    """

    k: int
    k_second: int
    pairs: int
    verified: int
    recall: float
    recall_strong: float
    seconds: float


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--settings", default="5+0,5+5,10+0,10+5", help="k+k_second of each row")
    parser.add_argument("--max-trials", type=int, default=1000, help="random samples per model in verification")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    run = RunFolder(options.run)
    verification = VerificationConfig(max_trials=options.max_trials)
    full, seconds = match(run, medrecon.create("pairing", "exhaustive"), verification)
    truth = inliers(full)
    strong = {pair for pair, n in truth.items() if n >= STRONG}
    rows = [Row(0, 0, len(full.pairs), len(truth), 1.0, 1.0, seconds)]
    for setting in options.settings.split(","):
        k, k_second = (int(x) for x in setting.split("+"))
        graph, seconds = match(run, medrecon.create("pairing", "retrieval", k=k, k_second=k_second), verification)
        found = inliers(graph).keys()
        share = lambda wanted, found=found: len(wanted & found) / max(1, len(wanted))
        rows.append(Row(k, k_second, len(graph.pairs), len(found), share(truth.keys()), share(strong), seconds))
    print(f"{len(run.frames)} frames; k = 0: exhaustive")
    print(f"{'k':>4}{'second':>8}{'pairs':>8}{'verified':>10}{'recall':>8}{f'recall >= {STRONG}':>14}{'s':>8}")
    for r in rows:
        counts = f"{r.k:>4}{r.k_second:>8}{r.pairs:>8}{r.verified:>10}"
        print(f"{counts}{r.recall:>8.1%}{r.recall_strong:>14.1%}{r.seconds:>8.1f}")
    if options.json:
        result = {"schema": 1, "frames": len(run.frames), "strong": STRONG, "rows": [asdict(r) for r in rows]}
        options.json.write_text(json.dumps(result, indent=1))


def match(run: RunFolder, pairing, verification: VerificationConfig) -> tuple[MatchGraph, float]:
    """The verified graph, and the seconds it took."""
    matcher = medrecon.create("matcher", "nearest-neighbour")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        graph = match_rounds(run.frames, run.features, pairing, matcher, verification, Path(folder), 0, Quiet())
        return graph, time.perf_counter() - start


def inliers(graph: MatchGraph) -> dict[frozenset[int], int]:
    """Inliers of every verified pair."""
    return {frozenset((p.frame_id_a, p.frame_id_b)): p.n_inliers for p in graph.verified()}


if __name__ == "__main__":
    main()

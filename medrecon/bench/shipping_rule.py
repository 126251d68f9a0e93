# SPDX-License-Identifier: Apache-2.0
"""The rule by which weights of our own stop being experimental, decided on results of the benchmark ``matching``.

They beat SIFT with the ratio test on the test subjects, with the same number of keypoints: more accurate matches, more
matches that support one geometry, and better poses. All on the views rendered with exact depth, the one group of pairs
that shows the subjects themselves and has all three figures. A quick look decides nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medrecon.bench.methods import BUDGET_OPTION, OURS
from medrecon.bench.tables import COLUMNS, cell, markdown_table
from medrecon.errors import InputError
from medrecon.matching.nearest_neighbour import DEFAULT_RATIO

BASELINE = "sift+nearest-neighbour"
GROUP = "views"
FIGURES = ("mma_3px", "verified_matches", "pose_auc_10deg")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of both rows.

    Attributes:
        figure: its name in results.json.
        ours, baseline: mean over pairs (or area), None where it could not be measured.
        met: ours is greater.
    """

    figure: str
    ours: float | None
    baseline: float | None
    met: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the rule is met, and what decided it.

    Attributes:
        ours, baseline: rows of the table.
        comparisons: one for each of ``FIGURES``.
        objections: why these results decide nothing, whatever the figures are.
        weights_sha256: of the files that our row was measured with.
        table: for people.
    """

    ours: str
    baseline: str
    comparisons: tuple[Comparison, ...]
    objections: tuple[str, ...]
    weights_sha256: tuple[str, ...]
    table: str

    @property
    def met(self) -> bool:
        return not self.objections and all(c.met for c in self.comparisons)

    def text(self) -> str:
        """One sentence."""
        lost = [_heading(c.figure) for c in self.comparisons if not c.met]
        if self.objections:
            return f"not decided: {'; '.join(self.objections)}"
        if lost:
            return f"not met: {self.ours} does not beat {self.baseline} on {', '.join(lost)}"
        return f"met: {self.ours} beats {self.baseline} on {', '.join(_heading(f) for f in FIGURES)}"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met, "text": self.text()}


def read_results(path: Path) -> Any:
    """Content of results.json.  Raises InputError."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(f"{path} cannot be read: {e}", "give results.json of `medrecon bench matching`") from e


def judge(results: Any, ours: str = OURS, baseline: str = BASELINE) -> Verdict:
    """Decide on the content of results.json.

    Args:
        ours: name of the row with our weights, as the benchmark's table has it.
        baseline: name of the row of SIFT with the ratio test.

    Raises:
        InputError: these are no results of that benchmark, or a row is missing.
    """
    try:
        if results["benchmark"] != "matching":
            raise InputError(f"these are results of the benchmark {results['benchmark']!r}", "medrecon bench matching")
        rows = [_row(results, name) for name in (ours, baseline)]
        shown = {name: results["figures"][name].get(GROUP, {}) for name in (ours, baseline)}
        means = {name: [_mean(figures.get(f)) for f in FIGURES] for name, figures in shown.items()}
        compared = [
            Comparison(f, a, b, a is not None and (b is None or a > b))
            for f, a, b in zip(FIGURES, means[ours], means[baseline])
        ]
        head = [f"{GROUP}, {results['n_cases'].get(GROUP, 0)} pairs", *map(_heading, FIGURES)]
        digits = {name: n for name, _, n in COLUMNS}
        lines = [[name, *(cell(shown[name].get(f), digits[f]) for f in FIGURES)] for name in (ours, baseline)]
        lines.append(["beaten", *("yes" if c.met else "no" for c in compared)])
        objections = _objections(results, *rows)
        if all(b is None for b in means[baseline]):
            objections.append(f"{baseline} has no figures of {GROUP}")
        weights = tuple(sorted(rows[0].get("weights_sha256", ())))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as e:
        raise InputError(f"these are no results of `medrecon bench matching`: {type(e).__name__} {e}") from e
    return Verdict(ours, baseline, tuple(compared), tuple(objections), weights, markdown_table(head, lines))


def _row(results: dict, name: str) -> dict:
    ran = [m["name"] for m in results["methods"] if m["status"] == "ran"]
    for facts in results["methods"]:
        if facts["name"] == name and name in ran:
            return facts
        if facts["name"] == name:
            raise InputError(f"the row {name!r} was not run: {facts['reason']}", facts["command"])
    raise InputError(f"the results have no row {name!r}", f"--ours or --baseline with one of {', '.join(ran)}")


def _objections(results: dict, ours: dict, baseline: dict) -> list[str]:
    out = ["a quick look has too few pairs"] if results["quick"] else []
    budgets = [row["extractor"].get(BUDGET_OPTION) for row in (ours, baseline)]
    if budgets != [results["budget"]] * 2:
        out.append(f"the keypoint budgets differ ({budgets[0]} and {budgets[1]}, asked for: {results['budget']})")
    matcher = baseline["matcher"]
    ratio = matcher.get("ratio") or DEFAULT_RATIO["l2"]
    if (baseline["extractor"]["name"], matcher["name"]) != ("sift", "nearest-neighbour") or ratio >= 1:
        out.append(f"{baseline['name']} is not SIFT with the ratio test")
    if (ours["extractor"]["name"], ours["matcher"]["name"]) != ("superpoint", "superglue"):
        out.append(f"{ours['name']} is not SuperPoint with SuperGlue")
    return out


def _mean(entry: dict | None) -> float | None:
    mean = (entry or {}).get("mean")
    return None if mean is None else float(mean)


def _heading(figure: str) -> str:
    return next(heading for name, heading, _ in COLUMNS if name == figure)

# SPDX-License-Identifier: Apache-2.0
"""From records to rows: means over seeds with their spread, ranks, and verdicts on the paper's claims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Answer = Literal["yes", "no", "within noise", "cannot be judged"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Attributes:
    claim: of the paper, in words.
    holds: on this data.
    why: the figures that decide.
    """

    claim: str
    holds: Answer
    why: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def figure(values: Iterable[float | None]) -> dict[str, Any] | None:
    """{"mean", "std", "n"} over seeds; std is None for one; None where a seed has no value."""
    values = list(values)
    if not values or any(v is None for v in values):
        return None
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": spread, "n": len(values)}


def over_seeds(records: dict[str, dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Records that differ in their seed only, together."""
    out: dict[str, list[dict[str, Any]]] = {}
    for record in records.values():
        out.setdefault(str({k: v for k, v in record["labels"].items() if k != "seed"}), []).append(record)
    return list(out.values())


def head_of(group: Sequence[dict[str, Any]], *names: str) -> dict[str, Any]:
    """Beginning of the row of such a group: these of its labels, how many seeds, and why one failed if one did."""
    failed = next((r["failed"] for r in group if r["failed"]), None)
    return {**{n: group[0]["labels"][n] for n in names}, "seeds": len(group), "failed": failed}


def view_mean(record: dict[str, Any], name: str) -> float | None:
    """Mean over all held-out views, those that could not be rendered included (see cases.view_figures)."""
    values = [v[name] for v in record["views"]]
    return float(np.mean(values)) if values and None not in values else None


def leads(claim: str, rows: Sequence[dict[str, Any]], name: str, ours: Sequence[str], higher: bool = True) -> Verdict:
    """Whether the best of ``ours`` is ahead of every other method of ``rows`` in the figure ``name``.

    Within noise: ahead or behind by less than twice the standard error of the difference over seeds. One seed knows no
    noise, and says so.
    """
    here = [r for r in rows if r.get(name)]
    mine, others = ([r for r in here if (r["method"] in ours) is wanted] for wanted in (True, False))
    if not mine or not others:
        return Verdict(claim, "cannot be judged", "no row of " + ("SuperPoint + SuperGlue" if not mine else "others"))
    sign = 1 if higher else -1
    best, rival = (max(group, key=lambda r: sign * r[name]["mean"]) for group in (mine, others))
    gap = sign * (best[name]["mean"] - rival[name]["mean"])
    why = f"{best['method']} {best[name]['mean']:.4g}, {rival['method']} {rival[name]['mean']:.4g}"
    if best[name]["std"] is None or rival[name]["std"] is None:
        return Verdict(claim, "yes" if gap > 0 else "no", why + " (one seed: noise unknown)")
    noise = np.sqrt(best[name]["std"] ** 2 / best[name]["n"] + rival[name]["std"] ** 2 / rival[name]["n"])
    if abs(gap) < 2 * noise:
        return Verdict(claim, "within noise", why)
    return Verdict(claim, "yes" if gap > 0 else "no", why)


def mean_ranks(rows: Sequence[dict[str, Any]], names: dict[str, bool], group: str = "sequence") -> dict[str, float]:
    """Mean rank (1 is best) of each method over all groups and figures; only methods that have all of them.

    Args:
        names: figure -> whether more is better.
    """
    methods = list(dict.fromkeys(r["method"] for r in rows))
    groups = list(dict.fromkeys(r[group] for r in rows))
    of = {(r["method"], r[group]): r for r in rows}
    full = [m for m in methods if all(of.get((m, g), {}).get(n) for g in groups for n in names)]
    ranks: dict[str, list[float]] = {m: [] for m in full}
    for g in groups:
        for name, higher in names.items():
            values = {m: (1 if higher else -1) * of[m, g][name]["mean"] for m in full}
            for m in full:
                better = sum(v > values[m] for v in values.values())
                equal = sum(v == values[m] for v in values.values())
                ranks[m].append(better + (equal + 1) / 2)
    return {m: float(np.mean(r)) for m, r in sorted(ranks.items(), key=lambda item: np.mean(item[1]))}

# SPDX-License-Identifier: Apache-2.0
"""Before and after: cycles counted by hand, intervals against the normal approximation, verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from medrecon.training import adapt_check
from medrecon.training.adapt_report import advice
from medrecon.types import Matches


def matches(*pairs):
    return Matches(np.array(pairs, np.int32).reshape(-1, 2), np.ones(len(pairs), np.float32))


def test_cycles_counted_by_hand():
    xy = np.array([(10, 10), (50, 50), (52, 51), (90, 10), (5, 5)], np.float32)
    ab = matches((0, 7), (1, 8), (2, 9), (3, 6))
    bc = matches((7, 1), (8, 2), (9, 3))  # 6 goes no further
    ca = matches((1, 0), (2, 2), (3, 4))  # back to itself; to a neighbour 2.2 px away; to another corner
    assert adapt_check.cycle(ab, bc, ca, xy) == (3, 2)
    assert adapt_check.cycle(matches(), bc, ca, xy) == (0, 0)


def test_triples_stay_within_the_frames_and_are_spread():
    found = adapt_check.pairs_of(20, (1, 4, 16), 5)
    assert {g for g, _ in found} == {1, 4}  # 2 x 16 does not fit
    for gap in (1, 4):
        starts = [s for g, s in found if g == gap]
        assert starts[0] == 0 and starts[-1] + 2 * gap == 19 and len(starts) == 5


def rows(values, **more):
    return {
        "pairs": [
            {"gap": 1, "frame": i, "verified": v, "returned": v, "verified_share": 0.5, "returned_share": None,
             "matches": 100, "keypoints": 200, **more} for i, v in enumerate(values)
        ],
        "warps": [{"frame": 0, "repeatability": 0.5, "accuracy": 0.5, "correct": 10}],
    }  # fmt: skip


def test_the_interval_is_that_of_the_mean_of_paired_changes():
    rng = np.random.default_rng(1)
    before = rng.normal(100, 30, 200)  # pairs differ a lot: only the paired change is narrow
    change = rng.normal(2, 4, 200)
    table = adapt_check.compare(rows(before), rows(before + change), 0)
    row = next(r for r in table if r["figure"] == "verified" and r["gap"] is None)
    half = 1.96 * change.std() / np.sqrt(200)
    assert row["change"] == pytest.approx(change.mean())
    assert row["low"] == pytest.approx(change.mean() - half, abs=0.12)
    assert row["high"] == pytest.approx(change.mean() + half, abs=0.12)
    undefined = next(r for r in table if r["figure"] == "returned_share")
    assert undefined["n"] == 0 and undefined["change"] is None
    assert "verified" in adapt_check.markdown(table)


@pytest.mark.parametrize(
    "after, more, expected",
    [
        ([110, 112, 111, 113], {}, "better"),
        ([110, 112, 111, 113], {"verified_share": 0.4}, "unclear"),  # more, but less of them true
        ([90, 91, 92, 89], {}, "worse"),
        ([90, 110, 108, 93], {}, "unclear"),
    ],
)
def test_verdict(after, more, expected):
    assert adapt_check.verdict(adapt_check.compare(rows([100] * 4), rows(after, **more), 0)) == expected


def test_a_gain_that_costs_something_is_not_praised_alone():
    def warped(value):
        return [{"frame": i, "repeatability": value, "accuracy": 0.5, "correct": 10} for i in range(3)]

    before, after = rows([100] * 4), rows([110, 112, 111, 113])
    for repeated, words in ((0.6, 1), (0.4, 2)):
        table = adapt_check.compare(before | {"warps": warped(0.5)}, after | {"warps": warped(repeated)}, 0)
        lines = advice(adapt_check.verdict(table), table, {"steps": 900}, 50)
        assert len(lines) == words and ("repeatability" in lines[-1]) == (words == 2)

# SPDX-License-Identifier: Apache-2.0
"""The threshold of matches: the rule on tables made by hand, and the table of pairs that are counted by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from medrecon.training.keypoints import Keypoints
from medrecon.training.match_threshold import GRID, Row, choose, tabulate


def table(**changes):
    """Rows of (right, wrong) by threshold as "t50"; elsewhere nothing is kept."""
    counts = {int(name[1:]) / 100: pair for name, pair in changes.items()}
    return [Row(t, *counts.get(round(t, 2), (0, 0)), 0.0) for t in GRID]


def test_the_grid_is_the_one_that_was_fixed():
    assert [round(100 * t) for t in GRID] == list(range(5, 91, 5))


@pytest.mark.parametrize(
    "rows, chosen",
    [
        ({"t5": (90, 60), "t20": (80, 30), "t45": (70, 10), "t50": (55, 2), "t90": (10, 0)}, 0.45),
        ({"t5": (90, 10), "t20": (85, 7)}, 0.05),  # where all are good, all are kept
        ({"t10": (5, 5), "t90": (1, 0)}, 0.9),
        ({"t40": (9, 4), "t70": (5, 0)}, 0.4),  # of equal ones the nearest to 0.2
        ({"t10": (9, 4), "t25": (5, 0)}, 0.25),
        ({}, 0.2),  # no matches decide nothing
        ({"t5": (1, 3), "t10": (0, 1)}, 0.2),  # nor does a best threshold that keeps none
    ],
)
def test_right_matches_exceed_wrong_ones_by_most(rows, chosen):
    assert choose(table(**rows)) == pytest.approx(chosen)


def test_where_nothing_decides_another_fallback_may_be_given():
    assert choose(table(), otherwise=0.35) == 0.35


class Trial:
    """Pictures that do not move, so that a match is right where both places are within 3 px; x > 90 is not visible."""

    def __init__(self, kinds):
        self.kinds = kinds

    def batches(self):
        for kind, n in self.kinds:
            xy = torch.tensor([[10.0, 10.0], [20.0, 10.0], [30.0, 10.0], [40.0, 10.0], [95.0, 10.0]]).repeat(n, 1, 1)
            valid = torch.ones(n, 5, dtype=torch.bool)
            valid[:, 3] = False
            side = Keypoints(xy, torch.ones(n, 5), torch.zeros(n, 5, 0), valid)
            moved = side._replace(xy=xy + torch.tensor([2.9, 0.0]))
            yield kind, SimpleNamespace(a_to_b=lambda p: (p, p[..., 0] < 90)), side, moved


def test_matches_are_counted_as_by_hand():
    # Of five matches: right at 0.95, right at 0.5, wrong at 0.4, one of a keypoint that does not count, and one that
    # leaves the picture at 0.3. In the views the second keypoint has none.
    asked = []

    def propose(a, b):
        n = len(a.xy)
        asked.append(n)
        partner = torch.tensor([0, 1, 0, 3, 4]).repeat(n, 1)
        if n == 1:
            partner[:, 1] = -1
        return partner, torch.tensor([0.95, 0.5, 0.4, 0.99, 0.3]).repeat(n, 1)

    rows = {round(r.threshold, 2): r for r in tabulate(Trial([("mixed", 3), ("mixed", 2), ("views", 1)]), propose)}
    assert asked == [3, 2, 1]  # once for each batch, not once for each threshold
    # Five mixed pairs and a single one of views weigh the same.
    assert rows[0.05][1:] == pytest.approx((1.5, 2, (2 / 4 + 1 / 3) / 2))
    assert rows[0.35][1:] == pytest.approx((1.5, 1, (2 / 3 + 1 / 2) / 2))
    assert rows[0.4][1:] == pytest.approx((1.5, 0, 1))  # a probability equal to the threshold is not above it
    assert rows[0.5][1:] == pytest.approx((1, 0, 1))
    assert rows[0.9][1:] == pytest.approx((1, 0, 1))
    assert choose(list(rows.values())) == pytest.approx(0.4)


def test_without_any_match_the_table_is_empty_and_the_papers_threshold_stays():
    rows = tabulate(Trial([("mixed", 2)]), lambda a, b: (torch.full((2, 5), -1), torch.ones(2, 5)))
    assert all(row[1:] == (0, 0, 0) for row in rows) and choose(rows) == 0.2

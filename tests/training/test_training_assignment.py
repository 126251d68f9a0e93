# SPDX-License-Identifier: Apache-2.0
"""Loss and matches against plain loops, torch's gradient check and the matchers of the product."""

import math

import numpy as np
import torch

from medrecon import ops
from medrecon.matching.nearest_neighbour import NearestNeighbourMatcher, NearestNeighbourMatcherConfig
from medrecon.matching.superglue import _mutual
from medrecon.training.assignment import NONE, assignment_loss, mutual_matches, nearest_neighbours
from medrecon.training.true_matches import IGNORED, UNMATCHED, Labels
from medrecon.types import Features

LABELS = Labels(
    torch.tensor([[2, UNMATCHED, IGNORED], [UNMATCHED, UNMATCHED, 0]]),
    torch.tensor([[UNMATCHED, IGNORED, 0, UNMATCHED], [2, IGNORED, IGNORED, UNMATCHED]]),
)


def plan(seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return ops.log_sinkhorn(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype), 1.0, 20)


def test_loss_by_plain_loops():
    log_plan = plan()
    hits, a_alone, b_alone = [], [], []
    for n in range(2):
        for i, j in enumerate(LABELS.of_a[n].tolist()):
            if j >= 0:
                hits.append(-float(log_plan[n, i, j]))
            if j == UNMATCHED:
                a_alone.append(-float(log_plan[n, i, 4]))
        b_alone += [-float(log_plan[n, 3, j]) for j, i in enumerate(LABELS.of_b[n].tolist()) if i == UNMATCHED]
    hit, miss = np.mean(hits), (np.mean(a_alone) + np.mean(b_alone)) / 2
    loss, parts = assignment_loss(log_plan, LABELS)
    assert math.isclose(float(loss), (hit + miss) / 2, rel_tol=1e-12)
    assert math.isclose(float(parts["matched"]), hit, rel_tol=1e-12)
    assert math.isclose(float(parts["unmatched"]), miss, rel_tol=1e-12)


def test_loss_of_nothing_is_zero_and_has_a_gradient():
    log_plan = plan().requires_grad_()
    nothing = Labels(torch.full((2, 3), IGNORED), torch.full((2, 4), IGNORED))
    loss, _ = assignment_loss(log_plan, nothing)
    loss.backward()
    assert float(loss.detach()) == 0 and not log_plan.grad.any()


def test_minimising_the_loss_finds_the_partners():
    scores = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    bin_score = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([scores, bin_score], 0.3)
    for _ in range(120):
        optimiser.zero_grad()
        loss, _ = assignment_loss(ops.log_sinkhorn(scores, bin_score, 20), LABELS)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.02
    found = mutual_matches(ops.log_sinkhorn(scores, bin_score, 100), 0.5)
    assert found[0, 0] == 2 and found[0, 1] == NONE and found[1, 2] == 0 and found[1, 0] == NONE


def test_matches_are_those_of_the_matcher():
    scores = 3 * torch.randn(3, 30, 40, generator=torch.Generator().manual_seed(1))
    log_plan = ops.log_sinkhorn(scores, 1.0, 50)
    found = mutual_matches(log_plan, 0.2)
    for mine, one in zip(found, log_plan):
        rows, columns, _ = _mutual(one, 0.2)
        expected = np.full(30, NONE)
        expected[rows] = columns
        np.testing.assert_array_equal(mine, expected)
        assert len(rows) > 5


def test_neighbours_are_those_of_the_matcher():
    generator = torch.Generator().manual_seed(2)
    b = torch.nn.functional.normalize(torch.randn(2, 60, 16, generator=generator), dim=2)
    noise = 0.15 * torch.randn(2, 40, 16, generator=generator)
    a = torch.nn.functional.normalize(b[:, :40] + noise, dim=2)
    valid_a, valid_b = (torch.rand(x.shape[:2], generator=generator) > 0.2 for x in (a, b))
    for ratio in (1.0, 0.85):
        found = nearest_neighbours(a, b, valid_a, valid_b, ratio)
        matcher = NearestNeighbourMatcher(NearestNeighbourMatcherConfig(ratio=ratio))
        for n in range(2):
            kept = [v[n].nonzero()[:, 0].numpy() for v in (valid_a, valid_b)]
            sides = [
                Features(np.zeros((len(k), 2)), np.ones(len(k), np.float32), d[n].numpy()[k], "l2", (9, 9), "x")
                for k, d in zip(kept, (a, b))
            ]
            expected = np.full(40, NONE)
            idx = matcher.match(*sides).idx
            expected[kept[0][idx[:, 0]]] = kept[1][idx[:, 1]]
            np.testing.assert_array_equal(found[n], expected)
            assert len(idx) > 5

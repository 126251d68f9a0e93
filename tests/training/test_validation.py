# SPDX-License-Identifier: Apache-2.0
"""The training's own figures are those of the benchmark."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from flat_pairs import draw_flat_pairs, scene

from medrecon.bench import metrics
from medrecon.features.superpoint_keypoints import find_keypoints, score_map
from medrecon.features.superpoint_network import SuperpointNetwork, SuperpointNetworkConfig
from medrecon.training import validation
from medrecon.training.validation import Found

SIZE = (48, 64)


@dataclasses.dataclass
class Truth:
    """``bench.geometry.PairTruth`` of pair i of a batch, as far as metrics ask for it."""

    pairs: object
    i: int

    def _carry(self, way, mask, xy):
        n = len(self.pairs.mask_a)
        batch = torch.as_tensor(np.asarray(xy), dtype=torch.float32)[None].expand(n, -1, -1)
        moved, visible = way(batch)
        known = np.ones(len(xy), bool)
        return moved[self.i].double().numpy(), known, visible[self.i].numpy()

    def a_to_b(self, xy):
        return self._carry(self.pairs.a_to_b, self.pairs.mask_a, xy)

    def b_to_a(self, xy):
        return self._carry(self.pairs.b_to_a, self.pairs.mask_b, xy)


def random_found(pairs, mask, n, seed, size=8) -> Found:
    g = torch.Generator().manual_seed(seed)
    b = len(mask)
    xy = (torch.rand(b, n, 2, generator=g) * torch.tensor([SIZE[1], SIZE[0]])).floor() + 0.5
    descriptors = torch.nn.functional.normalize(torch.randn(b, n, size, generator=g), dim=2)
    return Found(xy, torch.rand(b, n, generator=g), descriptors, torch.rand(b, n, generator=g) > 0.2)


@pytest.fixture
def pairs():
    return draw_flat_pairs(torch.cat([scene(s) for s in range(3)]), 3, SIZE, seed=4)


def test_repeatability_is_the_benchmarks(pairs):
    a, b = random_found(pairs, pairs.mask_a, 60, 0), random_found(pairs, pairs.mask_b, 50, 1)
    ours = validation.repeatability(a, b, pairs)
    for i in range(3):
        wanted = metrics.repeatability(a.xy[i][a.valid[i]].numpy(), b.xy[i][b.valid[i]].numpy(), Truth(pairs, i))
        assert float(ours[i]) == pytest.approx(wanted, abs=1e-6)
        assert 0.05 < wanted < 0.95


def test_matching_figures_are_the_benchmarks(pairs):
    found = {
        id(pairs.image_a): random_found(pairs, pairs.mask_a, 60, 0),
        id(pairs.image_b): random_found(pairs, pairs.mask_b, 60, 1),
    }
    a, b = found[id(pairs.image_a)], found[id(pairs.image_b)]
    near = torch.cdist(pairs.a_to_b(a.xy)[0], b.xy).masked_fill(~b.valid[:, None], 99).argmin(2)

    def match(a, b):  # to the nearest keypoint: some right, some wrong, some not visible
        return near.where(a.valid, torch.tensor(-1))

    figures = validation.judge([pairs], lambda image, mask: found[id(image)], match)
    wanted = {1: [], 3: [], 5: []}
    correct = []
    for i in range(3):
        rows = a.valid[i]
        errors, judged = metrics.match_errors_px(a.xy[i][rows].numpy(), b.xy[i][near[i][rows]].numpy(), Truth(pairs, i))
        for t in wanted:
            wanted[t].append(metrics.matching_accuracy(errors, judged, t))
        correct.append((errors[judged] <= 3).sum())
    for t in wanted:
        assert figures[f"mma_{t}px"] == pytest.approx(np.mean(wanted[t]), abs=1e-6)
    assert figures["correct"] == pytest.approx(np.mean(correct))
    assert figures["keypoints"] == pytest.approx(float(a.valid.sum() + b.valid.sum()) / 6)


def test_keypoints_are_those_of_the_extractor(pairs):
    torch.manual_seed(0)
    network = SuperpointNetwork(SuperpointNetworkConfig((4, 4, 8, 8), head_width=8, descriptor_size=8)).eval()
    torch.nn.init.normal_(network.convPb.weight, std=3.0)
    mask = torch.ones(3, *SIZE, dtype=torch.bool)
    found = validation.learned(network, 10_000)(pairs.image_a, mask)
    with torch.no_grad():
        logits, _ = network(pairs.image_a)
    for i in range(3):
        row, column, score = find_keypoints(score_map(logits[i]), 4, 0.0)
        inside = (np.minimum(row, column) >= 4) & (row < SIZE[0] - 4) & (column < SIZE[1] - 4)
        wanted = {(c + 0.5, r + 0.5) for r, c in zip(row[inside], column[inside])}
        assert {tuple(p) for p in found.xy[i][found.valid[i]].tolist()} == wanted
        kept = found.scores[i][found.valid[i]]
        assert (kept[:-1] >= kept[1:]).all()


def test_the_same_picture_twice_is_perfect_and_an_empty_one_counts_nothing(pairs):
    same = dataclasses.make_dataclass("Same", ["image_a", "image_b", "mask_a", "mask_b", "a_to_b", "b_to_a"])
    stay = lambda xy: (xy, torch.ones(xy.shape[:2], dtype=torch.bool))
    twice = same(pairs.image_a, pairs.image_a, pairs.mask_a, pairs.mask_a, stay, stay)
    figures = validation.judge([twice], validation.classical(30), None)
    assert figures["repeatability"] == 1 and figures["keypoints"] > 5
    none = same(pairs.image_a, pairs.image_a, pairs.mask_a & False, pairs.mask_a, stay, stay)
    figures = validation.judge([none], validation.classical(30), None)
    assert figures["repeatability"] >= 0 and not any(math.isnan(v) for v in figures.values())

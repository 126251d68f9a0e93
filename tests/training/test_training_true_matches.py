# SPDX-License-Identifier: Apache-2.0
"""Labels against the benchmark's own truth and against plain loops."""

import numpy as np
import torch

from medrecon.bench.geometry import DepthPair
from medrecon.bench.metrics import true_matches
from medrecon.training.true_matches import IGNORED, UNMATCHED, label_matches
from medrecon.types import Camera, Rigid3


class BenchTruth:
    """Pairs of the benchmark (float64, numpy, scipy) behind the face of a batch."""

    def __init__(self, pairs):
        self.pairs = pairs

    def a_to_b(self, xy):
        return self._all(xy, lambda pair: pair.a_to_b)

    def b_to_a(self, xy):
        return self._all(xy, lambda pair: pair.b_to_a)

    def _all(self, xy, carry):
        moved, seen = [], []
        for pair, points in zip(self.pairs, xy):
            there, known, visible = carry(pair)(points.double().numpy())
            moved.append(np.where(np.isfinite(there), there, 0))
            seen.append(known & visible)
        return torch.from_numpy(np.stack(moved)).float(), torch.from_numpy(np.stack(seen))


def steps(seed: int) -> DepthPair:
    """Two views of a wall with a step in front of it: some points of either picture are hidden in the other."""
    rng = np.random.default_rng(seed)
    camera = Camera("PINHOLE", 80, 60, (70.0, 70.0, 40.0, 30.0))
    # Both depths of the same scene: a box 60 mm away before a wall at 100 mm; the camera moves sideways.
    shift = float(rng.uniform(6, 14))
    column, row = np.meshgrid(np.arange(80) + 0.5, np.arange(60) + 0.5)

    def depth(at: float) -> np.ndarray:
        x, y = (column - 40) / 70 * 60 + at, (row - 30) / 70 * 60
        return np.where((abs(x) < 14) & (abs(y) < 12), 60.0, 100.0).astype(np.float32)

    pose = Rigid3(np.eye(3), np.array([-shift, 0, 0]))
    return DepthPair(camera, Rigid3(np.eye(3), np.zeros(3)), pose, depth(0.0), depth(shift))


def some_points(pair: DepthPair, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random points of a, and in b half of them found again with errors of some pixels, the rest random."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(0, 1, (90, 2)) * (80, 60)
    b = rng.uniform(0, 1, (70, 2)) * (80, 60)
    b[:50] = np.clip(pair.a_to_b(a[:50])[0] + rng.normal(0, 2.5, (50, 2)), 0, 59.9)
    return torch.from_numpy(a).float(), torch.from_numpy(b).float()


def test_partners_are_those_of_the_benchmark():
    pairs = [steps(0), steps(1), steps(2)]
    points = [some_points(p, i) for i, p in enumerate(pairs)]
    xy_a, xy_b = (torch.stack(side) for side in zip(*points))
    everything = torch.ones(xy_a.shape[:2], dtype=torch.bool), torch.ones(xy_b.shape[:2], dtype=torch.bool)
    labels = label_matches(BenchTruth(pairs), xy_a, everything[0], xy_b, everything[1])
    for i, pair in enumerate(pairs):
        expected = true_matches(xy_a[i].double().numpy(), xy_b[i].double().numpy(), pair)
        rows = (labels.of_a[i] >= 0).nonzero()[:, 0]
        found = torch.stack([rows, labels.of_a[i][rows]], 1).numpy()
        np.testing.assert_array_equal(found, expected)
        assert len(found) > 10
        # b says the same.
        columns = (labels.of_b[i] >= 0).nonzero()[:, 0]
        assert {(int(labels.of_b[i][c]), int(c)) for c in columns} == {tuple(f) for f in found.tolist()}


def test_unmatched_and_ignored_by_plain_loops():
    pair = steps(3)
    xy_a, xy_b = some_points(pair, 3)
    valid_a, valid_b = torch.rand(len(xy_a)) > 0.1, torch.rand(len(xy_b)) > 0.1
    labels = label_matches(BenchTruth([pair]), xy_a[None], valid_a[None], xy_b[None], valid_b[None])
    a, b = xy_a.double().numpy(), xy_b.double().numpy()
    a_in_b, known_a, visible_a = pair.a_to_b(a)
    b_in_a, known_b, visible_b = pair.b_to_a(b)

    def near(i: int, j: int) -> bool:
        if not (valid_a[i] and valid_b[j]):
            return False
        forth = known_a[i] and visible_a[i] and np.hypot(*(a_in_b[i] - b[j])) <= 5
        back = known_b[j] and visible_b[j] and np.hypot(*(b_in_a[j] - a[i])) <= 5
        return bool(forth or back)

    n_ignored = 0
    for of, n, m, valid, close in (
        (labels.of_a[0], len(a), len(b), valid_a, near),
        (labels.of_b[0], len(b), len(a), valid_b, lambda j, i: near(i, j)),
    ):
        for i in range(n):
            lonely = not any(close(i, j) for j in range(m))
            if not valid[i]:
                assert of[i] == IGNORED
            elif lonely:
                assert of[i] == UNMATCHED
            else:
                assert of[i] == IGNORED or of[i] >= 0
                n_ignored += int(of[i] == IGNORED)
    assert n_ignored > 3
    assert (labels.of_a == UNMATCHED).sum() > 3


def test_between_three_and_five_pixels_is_ignored():
    class Same:
        def a_to_b(self, xy):
            return xy, torch.ones(xy.shape[:2], dtype=torch.bool)

        b_to_a = a_to_b

    a = torch.tensor([[[10.0, 10.0], [50.0, 10.0], [90.0, 10.0]]])
    b = torch.tensor([[[12.9, 10.0], [54.0, 10.0], [95.1, 10.0]]])
    valid = torch.ones(1, 3, dtype=torch.bool)
    labels = label_matches(Same(), a, valid, b, valid)
    assert labels.of_a.tolist() == [[0, IGNORED, UNMATCHED]]
    assert labels.of_b.tolist() == [[0, IGNORED, UNMATCHED]]
    # A neighbour that is padding is no neighbour.
    labels = label_matches(Same(), a, valid, b, torch.tensor([[False, True, True]]))
    assert labels.of_a.tolist() == [[UNMATCHED, IGNORED, UNMATCHED]]
    assert labels.of_b.tolist() == [[IGNORED, IGNORED, UNMATCHED]]

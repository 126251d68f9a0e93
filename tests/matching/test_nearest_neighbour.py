# SPDX-License-Identifier: Apache-2.0
"""Nearest-neighbour matching against plain loops."""

import numpy as np
import pytest

from medrecon.errors import InputError
from medrecon.matching import nearest_neighbour
from medrecon.matching.nearest_neighbour import NearestNeighbourMatcher, NearestNeighbourMatcherConfig
from medrecon.testing import MatcherConformance
from medrecon.types import Features


def make(**options):
    return NearestNeighbourMatcher(NearestNeighbourMatcherConfig(**options))


def features(descriptors, extractor="x"):
    n = len(descriptors)
    metric = "hamming" if descriptors.dtype == np.uint8 else "l2"
    return Features(np.zeros((n, 2), np.float32), np.ones(n, np.float32), descriptors, metric, (10, 10), extractor)


class TestL2Conformance(MatcherConformance):
    def make(self):
        return make()


class TestHammingConformance(MatcherConformance):
    extractor, metric, dimension = "orb", "hamming", 32

    def make(self):
        return make()


def loops(a, b, distance, mutual, ratio, limit=np.inf):
    """The definition, pair by pair."""
    table = [[distance(x, y) for y in b] for x in a]

    def passes(row, k):
        others = [d for i, d in enumerate(row) if i != k]
        return not others or ratio == 1 or row[k] < ratio * min(others)

    out = set()
    for i, row in enumerate(table):
        j = row.index(min(row))
        column = [r[j] for r in table]
        if mutual and min(column) < row[j]:
            continue
        if passes(row, j) and (not mutual or passes(column, i)) and row[j] <= limit:
            out.add((i, j))
    # One-to-one: of several rows on one column the closest stays, of equal ones the first.
    return {(i, j) for i, j in out if all((table[i][j], i) <= (table[k][j], k) for k, m in out if m == j)}


def l2(x, y):
    return float(np.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(x, y))))


def bits(x, y):
    return sum(bin(int(p) ^ int(q)).count("1") for p, q in zip(x, y))


@pytest.mark.parametrize("mutual", [True, False])
@pytest.mark.parametrize("ratio", [1.0, 0.9])
@pytest.mark.parametrize("kind", ["l2", "hamming"])
def test_equals_the_loops(monkeypatch, kind, mutual, ratio):
    monkeypatch.setattr(nearest_neighbour, "CHUNK_ROWS", 16)  # several chunks, the last one short
    rng = np.random.default_rng(3)
    if kind == "l2":
        a = rng.normal(size=(55, 8)).astype(np.float32) * 30  # not of unit length
        b = np.concatenate([a[rng.permutation(55)[:40]] + rng.normal(size=(40, 8)) * 6, rng.normal(size=(30, 8)) * 30])
        b = b.astype(np.float32)
    else:
        a = rng.integers(0, 256, (55, 16), np.uint8)
        b = a[rng.permutation(55)[:40]] ^ (rng.random((40, 16)) < 0.3).astype(np.uint8) * rng.integers(
            0, 256, (40, 16), np.uint8
        )
        b = np.concatenate([b, rng.integers(0, 256, (30, 16), np.uint8)])
    found = make(mutual=mutual, ratio=ratio).match(features(a), features(b)).validate(len(a), len(b))
    expected = loops(a, b, l2 if kind == "l2" else bits, mutual, ratio)
    assert len(expected) > 15
    assert {tuple(m) for m in found.idx.tolist()} == expected


def test_max_distance_in_bits_and_euclidean():
    a = np.zeros((1, 4), np.uint8)
    b = np.array([[0, 0, 0, 0b111]], np.uint8)
    assert len(make(max_distance=3).match(features(a), features(b))) == 1
    assert len(make(max_distance=2).match(features(a), features(b))) == 0
    p, q = np.zeros((1, 2), np.float32), np.array([[3, 4]], np.float32)
    assert len(make(max_distance=5).match(features(p), features(q))) == 1
    assert len(make(max_distance=4.9).match(features(p), features(q))) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_swapping_the_sides_swaps_the_matches(dtype):
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (300, 16)).astype(dtype)
    b = np.concatenate([a[:150], rng.integers(0, 256, (100, 16)).astype(dtype)])
    there, back = make().match(features(a), features(b)), make().match(features(b), features(a))
    assert len(there) >= 150
    assert {tuple(m) for m in there.idx.tolist()} == {tuple(m[::-1]) for m in back.idx.tolist()}


def test_ties_go_to_the_lower_index():
    same = np.ones((4, 8), np.float32)
    for mutual in (True, False):
        found = make(ratio=1.0, mutual=mutual).match(features(same), features(same))
        assert found.idx.tolist() == [[0, 0]]


def test_scores_rank_by_distance():
    a = np.eye(3, dtype=np.float32)
    b = np.eye(3, dtype=np.float32) * np.array([[1.0], [0.8], [0.9]], np.float32)
    found = make().match(features(a), features(b))
    assert found.idx[:, 1].tolist() == [0, 1, 2]
    assert np.argsort(-found.scores).tolist() == [0, 2, 1]


def test_many_keypoints_stay_within_memory():
    import tracemalloc

    rng = np.random.default_rng(0)
    a = rng.random((12000, 32), np.float32)
    tracemalloc.start()
    found = make().match(features(a), features(a[::-1].copy()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 12000 and (found.idx.sum(1) == 11999).all()
    assert peak < 100e6  # the whole table would be 576 MB


def test_different_descriptor_lengths_are_refused():
    with pytest.raises(InputError, match="'p' .* and 'q'"):
        make().match(features(np.ones((2, 4), np.float32), "p"), features(np.ones((2, 5), np.float32), "q"))

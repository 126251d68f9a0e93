# SPDX-License-Identifier: Apache-2.0
"""Retrieval against brute force, on sets whose overlaps are known."""

import weakref
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from medrecon.features.orb import OrbExtractor, OrbExtractorConfig
from medrecon.features.sift import SiftExtractor, SiftExtractorConfig
from medrecon.matching import global_descriptor, retrieval
from medrecon.matching.retrieval import RetrievalPairing, RetrievalPairingConfig, connect, most_similar
from medrecon.testing import phantoms
from medrecon.types import Features, Frame, FrameSet


def frame_set(n):
    """Ids are neither positions nor in order."""
    return FrameSet(tuple(Frame(1000 - 7 * i, f"{i:06d}", Path("none.png"), 8, 8) for i in range(n)), "test", False)


def features_of(rows, metric="l2"):
    if metric == "hamming":
        rows = np.packbits(rows > 0, axis=1)
    n = len(rows)
    return Features(
        np.zeros((n, 2), np.float32), np.ones(n, np.float32), np.ascontiguousarray(rows), metric, (8, 8), "x"
    )


def places(n_places, per_place, metric="l2", seed=0):
    """Frames in random order and the place of each: 50 descriptors of the place, noisy, and 30 of anything."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(n_places, 50, 16))
    where = rng.permutation(np.repeat(np.arange(n_places), per_place))
    features = {}
    for frame, place in zip(frame_set(len(where)).frames, where):
        seen = own[place] + 0.15 * rng.normal(size=(50, 16))
        rows = np.concatenate([seen, rng.normal(size=(30, 16))])[rng.permutation(80)]
        features[frame.frame_id] = features_of(rows.astype(np.float32), metric)
    return features, where


def unit(rng, n, d=12):
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def positions(pairs):
    return {tuple(sorted(((1000 - a) // 7, (1000 - b) // 7))) for a, b in pairs}


def make(**options):
    return RetrievalPairing(RetrievalPairingConfig(**options))


@pytest.mark.parametrize("block_bytes", [1, 1000, 2**26])
def test_most_similar_is_brute_force(monkeypatch, block_bytes):
    monkeypatch.setattr(retrieval, "BLOCK_BYTES", block_bytes)
    x = unit(np.random.default_rng(3), 40)
    for k, least in ((1, None), (5, None), (5, 0.4), (39, None), (100, None)):
        want = set()
        for i in range(40):
            alike = []
            for j in range(40):
                if i != j:
                    alike.append((sum(float(a) * float(b) for a, b in zip(x[i], x[j])), j))
            for s, j in sorted(alike, reverse=True)[:k]:
                if least is None or s >= least:
                    want.add((min(i, j), max(i, j)))
        assert most_similar(x, k, least) == want


@pytest.mark.parametrize("seed", range(4))
def test_links_between_parts_are_a_maximum_spanning_forest(seed):
    """The oracle is scipy's minimum spanning tree of a graph in which what is there already costs next to nothing."""
    x = unit(np.random.default_rng(seed), 60, 4)
    given = {(i, i + 1) for i in range(0, 60, 3)} | {(0, 30)}
    linked = connect(x, given)
    added = linked - given
    cost = 2.0 - np.triu(x @ x.T, 1).astype(np.float64)
    cost[np.tril_indices(60)] = 0
    for pair in given:
        cost[pair] = 1e-3
    tree = minimum_spanning_tree(cost).tocoo()
    want = {(int(i), int(j)) for i, j, c in zip(tree.row, tree.col, tree.data) if c > 0.5}
    assert added == want and given <= linked


@pytest.mark.parametrize("metric", ["l2", "hamming"])
def test_every_view_of_a_place_is_found_and_hardly_any_other(metric):
    features, where = places(12, 5, metric)
    found = positions(make(k=4).pairs(frame_set(60), features))
    true = {(i, j) for i in range(60) for j in range(i + 1, 60) if where[i] == where[j]}
    assert len(true & found) >= 0.97 * len(true)
    assert len(found - true) <= 15  # eleven of them join the twelve places
    n_parts, _ = connected_components(graph_of(found, 60), directed=False)
    assert n_parts == 1


def graph_of(pairs, n):
    table = np.zeros((n, n))
    for i, j in pairs:
        table[i, j] = 1
    return table


@pytest.mark.parametrize("extractor", [SiftExtractor(SiftExtractorConfig()), OrbExtractor(OrbExtractorConfig())])
def test_pictures_of_the_same_body_are_found(extractor):
    """Four textured bodies, five views of each, shuffled; whether two views overlap is known from their geometry."""
    order = np.random.default_rng(1).permutation(20)
    bodies = [phantoms.views("sphere", 5, 200, 150, seed=s) for s in range(4)]
    features = {}
    for at, which in enumerate(order):
        image = bodies[which // 5].images[which % 5]
        features[1000 - 7 * at] = extractor.extract(image, image.max(2) > 0)
    found = positions(make(k=3).pairs(frame_set(20), features))
    right = [(i, j) for i, j in found if order[i] // 5 == order[j] // 5]
    neighbours = {
        (i, j) for i in range(20) for j in range(i + 1, 20)
        if order[i] // 5 == order[j] // 5 and abs(order[i] - order[j]) == 1
    }  # fmt: skip
    assert len(right) >= 0.8 * len(found)
    assert len(neighbours & found) >= 0.9 * len(neighbours)


@pytest.mark.parametrize("n, k", [(3, 1), (10, 3), (50, 2), (50, 10), (50, 60)])
def test_pairs_grow_with_n_times_k(n, k):
    rng = np.random.default_rng(n + k)
    for x in (unit(rng, n), np.repeat(unit(rng, -(-n // 4)), 4, axis=0)[:n], np.zeros((n, 4), np.float32)):
        found = connect(x, most_similar(x, k))
        assert len(found) <= min(n * k, n * (n - 1) // 2)
        assert all(0 <= i < j < n for i, j in found)
        assert connected_components(graph_of(found, n), directed=False)[0] == 1


def test_least_similarity_leaves_only_links_between_unlike_frames():
    features, where = places(6, 3)
    found = positions(make(k=10, min_similarity=0.3).pairs(frame_set(18), features))
    other = [(i, j) for i, j in found if where[i] != where[j]]
    assert len(other) == 5 and len(found) == 5 + 6 * 3


def test_frames_without_keypoints_get_no_pairs():
    features, _ = places(3, 3)
    frames = frame_set(9)
    for i in (1, 4):
        features[1000 - 7 * i] = features_of(np.zeros((0, 16), np.float32))
    found = positions(make(k=2).pairs(frames, features))
    assert {i for pair in found for i in pair} == set(range(9)) - {1, 4}
    for i in features:
        features[i] = features_of(np.zeros((0, 16), np.float32))
    assert make().pairs(frames, features) == []


def test_frames_that_are_all_the_same_or_nearly_empty():
    one = features_of(np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32))
    frames = frame_set(6)
    same = positions(make(k=2).pairs(frames, {f.frame_id: one for f in frames.frames}))
    assert len(same) <= 12 and connected_components(graph_of(same, 6), directed=False)[0] == 1
    rng = np.random.default_rng(1)
    single = {f.frame_id: features_of(rng.normal(size=(1, 16)).astype(np.float32)) for f in frames.frames}
    found = positions(make(k=1).pairs(frames, single))
    assert connected_components(graph_of(found, 6), directed=False)[0] == 1


def test_features_are_held_one_frame_at_a_time():
    """However many frames there are: descriptors that were read are let go of again."""
    alive, most = weakref.WeakSet(), [0]

    class Rows(np.ndarray):
        pass

    class FromDisk(dict):
        def __getitem__(self, i):
            rows = np.random.default_rng(i).normal(size=(900, 16)).astype(np.float32).view(Rows)
            alive.add(_Token(rows))
            found = Features(np.zeros((900, 2), np.float32), np.ones(900, np.float32), rows, "l2", (8, 8), "x")
            most[0] = max(most[0], sum(t.array() is not None for t in alive))
            return found

    class _Token:
        kept = []

        def __init__(self, rows):
            self.array = weakref.ref(rows)
            self.kept.append(self)

    vectors, counts = global_descriptor.describe(FromDisk(), list(range(40)))
    assert vectors.shape == (40, 32 * 16) and counts.tolist() == [900] * 40
    assert most[0] <= 2

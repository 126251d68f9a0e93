# SPDX-License-Identifier: Apache-2.0
"""The second round: what it finds on a ring of views, and that a kill in it costs nothing of the first."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medrecon.errors import PluginError
from medrecon.matching import match
from medrecon.matching.covisibility import covisible_pairs
from medrecon.matching.nearest_neighbour import NearestNeighbourMatcher, NearestNeighbourMatcherConfig
from medrecon.matching.pairing import NoPairing, NoPairingConfig
from medrecon.matching.retrieval import RetrievalPairing, RetrievalPairingConfig
from medrecon.matching.rounds import match_rounds
from medrecon.matching.verification import VerificationConfig
from medrecon.progress import Quiet
from medrecon.types import Features, Frame, FrameSet, Matches, MatchGraph, TwoView

N = 24


@pytest.fixture(scope="module")
def ring():
    """24 views around a ball of points, 15 degrees apart, every other one in another light.

    The light shows in 30 descriptors that mean nothing and are common to all views of that light, so that retrieval
    prefers views of the same light. Also returned: how many points two views share.
    """
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    own, light = rng.normal(size=(500, 32)), rng.normal(size=(2, 30, 32))
    features, frames, seen = {}, [], []
    for i in range(N):
        a = 2 * np.pi * i / N
        forward = -np.array([np.sin(a), 0, np.cos(a)])
        rotation = np.stack([np.cross([0, 1, 0], forward), [0, 1, 0], forward])
        local = (points - -4 * forward) @ rotation.T
        visible = np.flatnonzero((points @ -forward) > 0.35)
        seen.append(set(visible.tolist()))
        xy = 500 * local[visible, :2] / local[visible, 2:] + [320, 240] + rng.normal(0, 0.2, (len(visible), 2))
        xy = np.concatenate([xy, rng.uniform(10, 470, (30, 2))]).astype(np.float32)
        rows = np.concatenate([own[visible], light[i % 2]]) + 0.6 * rng.normal(size=(len(xy), 32))
        features[3 * i] = Features(
            xy, np.ones(len(xy), np.float32), rows.astype(np.float32), "l2", (640, 480), "x"
        ).validate()
        frames.append(Frame(3 * i, f"{i:06d}", Path("none.png"), 640, 480))
    shared = {(i, j): len(seen[i] & seen[j]) for i in range(N) for j in range(i + 1, N)}
    return FrameSet(tuple(frames), "test", False), features, shared


def nearest():
    return NearestNeighbourMatcher(NearestNeighbourMatcherConfig())


def retrieval(k=3, k_second=3):
    return RetrievalPairing(RetrievalPairingConfig(k=k, k_second=k_second))


def run(ring, out, pairing=None, matcher=None, progress=None):
    frames, features, _ = ring
    return match_rounds(
        frames,
        features,
        pairing or retrieval(),
        matcher or nearest(),
        VerificationConfig(max_trials=300),
        out,
        0,
        progress or Quiet(),
    )


def ids(graph):
    return [(p.frame_id_a, p.frame_id_b) for p in graph.pairs]


def same(a, b):
    return ids(a) == ids(b) and all(
        p.kind == q.kind and np.array_equal(p.inliers, q.inliers) and np.array_equal(p.putative.idx, q.putative.idx)
        for p, q in zip(a.pairs, b.pairs)
    )


@pytest.fixture(scope="module")
def undisturbed(ring, tmp_path_factory):
    quiet = Quiet()
    out = tmp_path_factory.mktemp("undisturbed") / "m"
    graph = run(ring, out, progress=quiet)
    return graph, out, quiet


def test_second_round_recovers_pairs_that_retrieval_misses(ring, undisturbed):
    frames, features, shared = ring
    graph, out, quiet = undisturbed
    first = retrieval().pairs(frames, features)
    more = ids(graph)[len(first) :]
    assert ids(graph)[: len(first)] == first
    assert len(first) <= N * 3 and len(more) <= N * 3 and len(set(map(frozenset, first + more))) == len(first + more)
    overlap = lambda pairs: [shared[tuple(sorted((a // 3, b // 3)))] for a, b in pairs]  # noqa: E731
    true = {pair for pair, n in shared.items() if n >= 100}
    found = lambda pairs: true & {tuple(sorted((a // 3, b // 3))) for a, b in pairs}  # noqa: E731
    assert len(found(first)) < 0.65 * len(true)  # the test is one
    assert len(found(first + more)) > 0.9 * len(true)
    assert np.mean(np.array(overlap(more)) >= 30) > 0.9  # next to no pair is in vain
    verified = {(p.frame_id_a, p.frame_id_b) for p in graph.verified()}
    assert len(verified & set(more)) > 0.9 * len(more)
    assert same(MatchGraph.load(out / "graph.npz"), graph) and [p.name for p in out.iterdir()] == ["graph.npz"]
    assert any("first round" in s and f"{len(more)} pairs" in s for s in quiet.said)


def test_proposals_are_those_of_plain_counting():
    """Explicit loops over frames and keypoints of a random graph."""
    rng = np.random.default_rng(4)
    frame_ids = [50 - 2 * i for i in range(15)]
    views = []
    for i in range(15):
        for j in rng.permutation(15)[:5]:
            a, b = frame_ids[i], frame_ids[j]
            if i == j or any({v.frame_id_a, v.frame_id_b} == {a, b} for v in views):
                continue
            idx = np.stack([rng.permutation(40)[:20], rng.permutation(40)[:20]], 1).astype(np.int32)
            kind = "fundamental" if rng.random() < 0.7 else "none"
            inliers = rng.random(20) < (0.5 if kind != "none" else 0)
            views.append(TwoView(a, b, Matches(idx, np.ones(20, np.float32)), inliers, kind))
    count = Counter()
    for c in frame_ids:
        for keypoint in range(40):
            seers = set()
            for v in views:
                for row, good in zip(v.putative.idx, v.inliers):
                    if good and v.frame_id_a == c and row[0] == keypoint:
                        seers.add(v.frame_id_b)
                    if good and v.frame_id_b == c and row[1] == keypoint:
                        seers.add(v.frame_id_a)
            for a in seers:
                for b in seers:
                    if a != b and not any({v.frame_id_a, v.frame_id_b} == {a, b} for v in views):
                        count[a, b] += 1
    for k in (0, 1, 3, 100):
        want = set()
        for a in frame_ids:
            ranked = sorted((-n, frame_ids.index(y)) for (x, y), n in count.items() if x == a)
            want |= {frozenset((a, frame_ids[at])) for _, at in ranked[:k]}
        got = covisible_pairs(MatchGraph(tuple(views)), frame_ids, k)
        assert set(map(frozenset, got)) == want and len(got) == len(want)
        assert all(frame_ids.index(a) < frame_ids.index(b) for a, b in got)


class StopsAt(NearestNeighbourMatcher):
    """Raises as Ctrl-C does at its n-th call."""

    thread_safe = False

    def __init__(self, n):
        super().__init__(NearestNeighbourMatcherConfig())
        self.n, self.calls = n, 0

    def match(self, a, b):
        self.calls += 1
        if self.calls == self.n:
            raise KeyboardInterrupt
        return super().match(a, b)


class Asked(RetrievalPairing):
    """Counts how often it is asked for the first round."""

    def __init__(self):
        super().__init__(RetrievalPairingConfig(k=3, k_second=3))
        self.asked = 0

    def pairs(self, frames, features):
        self.asked += 1
        return super().pairs(frames, features)


@pytest.mark.parametrize("into_second", [False, True])
def test_interrupted_run_goes_on(ring, undisturbed, tmp_path, monkeypatch, into_second):
    graph = undisturbed[0]
    n_first = len(retrieval().pairs(*ring[:2]))
    monkeypatch.setattr(match, "SAVE_EVERY_S", 0.0)
    stop = n_first + 10 if into_second else 10
    with pytest.raises(KeyboardInterrupt):
        run(ring, tmp_path / "m", matcher=StopsAt(stop))
    assert not (tmp_path / "m" / "graph.npz").exists()
    again, pairing = StopsAt(10**6), Asked()
    assert same(run(ring, tmp_path / "m", pairing, again), graph)
    assert pairing.asked == (0 if into_second else 1)
    assert again.calls <= len(graph.pairs) - stop + 40  # what was being worked on when it was stopped
    if into_second:
        assert again.calls <= len(graph.pairs) - n_first
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["graph.npz"]


def test_killed_between_saving_and_tidying_up(ring, undisturbed, tmp_path):
    graph = undisturbed[0]
    (tmp_path / "m" / "first-round").mkdir(parents=True)
    graph.save(tmp_path / "m" / "graph.npz")
    assert same(run(ring, tmp_path / "m", matcher=StopsAt(1)), graph)
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["graph.npz"]


def test_broken_file_of_the_first_round_is_done_again(ring, undisturbed, tmp_path):
    first = tmp_path / "m" / "first-round"
    first.mkdir(parents=True)
    (first / "graph.npz").write_bytes(b"PK\x03\x04 and no more")
    assert same(run(ring, tmp_path / "m"), undisturbed[0])


def test_pairing_none_gives_an_empty_graph_even_without_keypoints(ring, tmp_path):
    frames, features = ring[:2]
    bare = {i: replace(f, xy=f.xy[:0], scores=f.scores[:0], descriptors=f.descriptors[:0]) for i, f in features.items()}
    graph = run((frames, bare, None), tmp_path, NoPairing(NoPairingConfig()))
    assert graph.pairs == () and MatchGraph.load(tmp_path / "graph.npz").pairs == ()


def test_nothing_more_to_match(ring, tmp_path):
    graph = run(ring, tmp_path / "m", retrieval(k_second=0))
    assert ids(graph) == retrieval().pairs(*ring[:2])
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["graph.npz"]


@pytest.mark.parametrize("answer, says", [(lambda first: first[:1], "again"), (lambda first: [(0, 1)], "no pair")])
def test_rubbish_of_the_second_round_is_blamed_on_the_pairing(ring, tmp_path, answer, says):
    class Broken:
        def pairs(self, frames, features):
            return [(0, 3), (3, 6)]

        def more_pairs(self, graph, frames, features):
            return answer([(b, a) for a, b in ids(graph)])

    with pytest.raises(PluginError, match="pairing") as caught:
        run(ring, tmp_path / "m", Broken())
    assert says in caught.value.cause

# SPDX-License-Identifier: Apache-2.0
"""The matching stage: interruptions, threads, and matchers that break their contract."""

import threading
from pathlib import Path

import numpy as np
import pytest

from medrecon.errors import InputError, PluginError
from medrecon.matching import match, match_all
from medrecon.matching.nearest_neighbour import NearestNeighbourMatcher, NearestNeighbourMatcherConfig
from medrecon.matching.verification import VerificationConfig
from medrecon.progress import Quiet
from medrecon.types import Features, Frame, FrameSet, Matches, MatchGraph

N = 6
PAIRS = [(i, j) for i in range(N) for j in range(i + 1, N)]


@pytest.fixture(scope="module")
def case():
    """Six views of 120 points in space, seen with 40 keypoints of nothing each."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (120, 3)) + [0, 0, 5]
    names = rng.normal(size=(120, 32))
    features, frames = {}, []
    for i in range(N):
        p = points + [0.25 * i, 0.1 * i, 0]
        xy = 400 * p[:, :2] / p[:, 2:] + [320, 240] + rng.normal(0, 0.2, (120, 2))
        xy = np.concatenate([xy, rng.uniform(10, 400, (40, 2))]).clip(0, 479).astype(np.float32)
        rows = np.concatenate([names + rng.normal(0, 0.2, names.shape), rng.normal(size=(40, 32))]).astype(np.float32)
        features[i] = Features(xy, np.ones(160, np.float32), rows, "l2", (640, 480), "x")
        frames.append(Frame(i, f"{i:06d}", Path("none.png"), 640, 480))
    return FrameSet(tuple(frames), "test"), features


def nearest():
    return NearestNeighbourMatcher(NearestNeighbourMatcherConfig())


def run(case, out, matcher=None, pairs=PAIRS):
    return match_all(*case, pairs, matcher or nearest(), VerificationConfig(), out, 0, Quiet())


def same(a: MatchGraph, b: MatchGraph) -> bool:
    return len(a.pairs) == len(b.pairs) and all(
        (p.frame_id_a, p.frame_id_b, p.kind) == (q.frame_id_a, q.frame_id_b, q.kind)
        and np.array_equal(p.putative.idx, q.putative.idx)
        and np.array_equal(p.inliers, q.inliers)
        and np.array_equal(p.matrix, q.matrix)
        for p, q in zip(a.pairs, b.pairs)
    )


def test_graph_is_saved_in_the_order_of_the_pairs(case, tmp_path):
    graph = run(case, tmp_path / "m")
    assert [(p.frame_id_a, p.frame_id_b) for p in graph.pairs] == PAIRS
    assert len(graph.verified()) == len(PAIRS) and min(p.n_inliers for p in graph.pairs) > 90
    assert same(MatchGraph.load(tmp_path / "m" / "graph.npz"), graph)
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["graph.npz"]


def test_threads_and_order_change_nothing(case, tmp_path, monkeypatch):
    graph = run(case, tmp_path / "a")
    monkeypatch.setattr(match, "N_THREADS", 1)
    alone = run(case, tmp_path / "b", pairs=PAIRS[::-1])
    assert same(graph, MatchGraph(alone.pairs[::-1]))


class StopsAt(NearestNeighbourMatcher):
    """Raises as Ctrl-C does at its n-th call, counts until then."""

    thread_safe = False

    def __init__(self, n):
        super().__init__(NearestNeighbourMatcherConfig())
        self.n, self.calls = n, 0

    def match(self, a, b):
        self.calls += 1
        if self.calls == self.n:
            raise KeyboardInterrupt
        return super().match(a, b)


def test_interrupted_run_goes_on(case, tmp_path, monkeypatch):
    undisturbed = run(case, tmp_path / "a")
    monkeypatch.setattr(match, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(match, "N_THREADS", 1)
    with pytest.raises(KeyboardInterrupt):
        run(case, tmp_path / "b", StopsAt(9))
    parts = sorted((tmp_path / "b").glob("part-*.npz"))
    assert len(parts) == 8 and not (tmp_path / "b" / "graph.npz").exists()
    parts[3].write_bytes(parts[3].read_bytes()[:100])  # killed while writing
    again = StopsAt(1000)
    assert same(run(case, tmp_path / "b", again), undisturbed)
    assert again.calls == len(PAIRS) - 7
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["graph.npz"]


def test_matcher_is_called_by_one_thread_at_a_time_unless_it_says_so(case, tmp_path, monkeypatch):
    monkeypatch.setattr(match, "N_THREADS", 4)
    inside, most = threading.Semaphore(0), []

    class Watched(NearestNeighbourMatcher):
        thread_safe = False

        def match(self, a, b):
            inside.release()
            most.append(inside._value)
            found = super().match(a, b)
            inside.acquire()
            return found

    run(case, tmp_path / "m", Watched(NearestNeighbourMatcherConfig()))
    assert max(most) == 1 and len(most) == len(PAIRS)


class InBatches(NearestNeighbourMatcher):
    """Takes pairs together and remembers how many keypoints they had."""

    thread_safe = False
    batch_size = 4

    def __init__(self):
        super().__init__(NearestNeighbourMatcherConfig())
        self.batches = []

    def match_pairs(self, pairs):
        self.batches.append([(len(a), len(b)) for a, b in pairs])
        return [self.match(a, b) for a, b in pairs]


def test_batches_change_nothing(case, tmp_path):
    """Frames of two sizes: like is put to like as far as the stage looks ahead, and the graph is the same."""
    frames, features = case
    features = dict(features)
    for i in (1, 4):
        f = features[i]
        features[i] = Features(f.xy[:130], f.scores[:130], f.descriptors[:130], "l2", f.image_size, f.extractor)
    matcher = InBatches()
    together = run((frames, features), tmp_path / "a", matcher)
    assert same(together, run((frames, features), tmp_path / "b"))
    assert sorted(map(len, matcher.batches)) == [3, 4, 4, 4]
    assert max(len(set(b)) for b in matcher.batches) == 2 and sum(len(set(b)) == 1 for b in matcher.batches) >= 1


def test_interrupted_batches_go_on(case, tmp_path, monkeypatch):
    monkeypatch.setattr(match, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(match, "N_THREADS", 1)

    class Stops(InBatches):
        def match_pairs(self, pairs):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().match_pairs(pairs)

    with pytest.raises(KeyboardInterrupt):
        run(case, tmp_path / "m", Stops())
    resumed = InBatches()
    assert same(run(case, tmp_path / "m", resumed), run(case, tmp_path / "whole"))
    assert sum(map(len, resumed.batches)) == len(PAIRS) - 8


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda pairs: [Matches.empty()], "1 results"),
        (lambda pairs: None, "NoneType"),
        (lambda pairs: [None] * len(pairs), "NoneType"),
        (lambda pairs: {}["x"], "KeyError"),
    ],
)
def test_rubbish_batches_are_blamed_on_the_matcher(case, tmp_path, answer, says):
    matcher = InBatches()
    matcher.match_pairs = answer
    with pytest.raises(PluginError) as caught:
        run(case, tmp_path / "m", matcher)
    assert "InBatches on frames 0" in caught.value.cause and says in caught.value.cause
    matcher.batch_size = 0
    with pytest.raises(PluginError, match="batch_size"):
        run(case, tmp_path / "m", matcher)


@pytest.mark.parametrize("safe, share", [(True, 2), (False, 4)])
def test_workers_share_the_threads_of_torch(case, tmp_path, monkeypatch, safe, share):
    import torch

    monkeypatch.setattr(match, "N_THREADS", 2)
    seen = []

    class Watched(NearestNeighbourMatcher):
        thread_safe = safe

        def match(self, a, b):
            seen.append(torch.get_num_threads())
            return super().match(a, b)

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        run(case, tmp_path / "m", Watched(NearestNeighbourMatcherConfig()))
        assert set(seen) == {share} and torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def broken(answer):
    class Broken:
        def match(self, a, b):
            return answer(a, b)

    return Broken()


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda a, b: None, "NoneType"),
        (lambda a, b: Matches(np.zeros((2, 2), np.int32), np.ones(2, np.float32)), "twice"),
        (lambda a, b: Matches(np.full((1, 2), 5000, np.int32), np.ones(1, np.float32)), "outside"),
        (lambda a, b: Matches(np.zeros((1, 2), np.int64), np.ones(1, np.float32)), "int64"),
        (lambda a, b: Matches([[0, 0]], None), "unusable"),
        (lambda a, b: {}["x"], "KeyError"),
    ],
)
def test_rubbish_is_blamed_on_the_matcher(case, tmp_path, answer, says):
    with pytest.raises(PluginError) as caught:
        run(case, tmp_path / "m", broken(answer))
    assert "Broken" in caught.value.cause and "000000 and 000001" in caught.value.cause and says in caught.value.cause
    assert not (tmp_path / "m" / "graph.npz").exists()


@pytest.mark.parametrize("pairs", [[(0, 0)], [(0, 99)], [(0, 1), (1, 0)], [(0,)], ["ab"]])
def test_rubbish_pairs_are_blamed_on_the_pairing(case, tmp_path, pairs):
    with pytest.raises(PluginError, match="pairing"):
        run(case, tmp_path / "m", pairs=pairs)


def test_nothing_to_match(case, tmp_path):
    with pytest.raises(InputError, match="no pair"):
        run(case, tmp_path / "m", pairs=[])
    frames, features = case
    with pytest.raises(InputError, match="no features"):
        run((frames, {0: features[0]}), tmp_path / "m")

# SPDX-License-Identifier: Apache-2.0
"""Conformance kit for pairings."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.plugins.contracts import SecondRound
from medrecon.testing import phantoms
from medrecon.testing.contract import require, same
from medrecon.types import Features, FrameSet, Matches, MatchGraph, TwoView

KIND = "pairing"


class PairingConformance:
    """Inherit in a class called ``Test...`` and override :meth:`make`.

    Attributes:
        covers_all_frames: whether every frame of the phantom must occur in some pair.
    """

    covers_all_frames = True

    def make(self) -> Any:
        """Return the pairing under test, e.g. ``medrecon.create("pairing", "my-pairing")``."""
        raise NotImplementedError("override make() and return your pairing")

    def _input(self, n: int, folder: Path) -> tuple[FrameSet, dict[int, Features]]:
        """n frames with poses, ids that have gaps, and features for each."""
        ids = [3 + 7 * i for i in range(n)]
        frames = phantoms.frame_set(folder, phantoms.views("sphere", n, 32, 24), ids, known_poses=True)
        pair = phantoms.feature_pair(n=40, n_extra=10)
        return frames, {i: (pair.a, pair.b)[k % 2] for k, i in enumerate(ids)}

    def _pairs(self, n: int) -> list[tuple[int, int]]:
        with tempfile.TemporaryDirectory() as folder:
            if n:
                frames, features = self._input(n, Path(folder))
            else:
                frames, features = FrameSet((), "nothing"), {}
            pairs = self.make().pairs(frames, features)
        return self._valid(pairs, frames)

    def _valid(self, pairs: list[tuple[int, int]], frames: FrameSet) -> list[tuple[int, int]]:
        require(isinstance(pairs, list), KIND, "pairs and more_pairs return a list", type(pairs).__name__)
        ids = {f.frame_id for f in frames.frames}
        for pair in pairs:
            two = isinstance(pair, tuple) and len(pair) == 2 and all(type(i) is int for i in pair)
            require(two, KIND, "every pair is a tuple of two Python ints", repr(pair))
            require(
                set(pair) <= ids, KIND, "pairs name frames by frame_id, not by position", f"{pair} not in {sorted(ids)}"
            )
            require(pair[0] != pair[1], KIND, "no frame is paired with itself", repr(pair))
        unordered = [tuple(sorted(p)) for p in pairs]
        twice = sorted({p for p in unordered if unordered.count(p) > 1})
        require(not twice, KIND, "each pair occurs once, whichever way round", f"{twice[:3]} occur more often")
        return pairs

    def test_pairs_are_valid(self) -> None:
        pairs = self._pairs(9)
        require(pairs, KIND, "nine overlapping frames give pairs", "none")

    def test_every_frame_is_paired(self) -> None:
        seen = {i for pair in self._pairs(9) for i in pair}
        contract = "every overlapping frame occurs in some pair (or set covers_all_frames = False)"
        require(len(seen) == 9 or not self.covers_all_frames, KIND, contract, f"{len(seen)} of 9 do")

    def test_few_frames(self) -> None:
        for n, most in ((0, 0), (1, 0), (2, 1)):
            found = len(self._pairs(n))
            require(found <= most, KIND, f"{n} frames give at most {most} pairs and no error", f"{found}")

    def test_is_deterministic(self) -> None:
        contract = "the same frames twice give the same pairs in the same order"
        require(self._pairs(9) == self._pairs(9), KIND, contract)

    def test_second_round_asks_for_new_pairs(self) -> None:
        pairing = self.make()
        if not isinstance(pairing, SecondRound):
            return
        with tempfile.TemporaryDirectory() as folder:
            frames, features = self._input(9, Path(folder))
            graph = self._graph(pairing.pairs(frames, features), features)
            nothing = MatchGraph(tuple(replace(p, kind="none", inliers=p.inliers & False) for p in graph.pairs))
            for first in (graph, nothing, MatchGraph(())):
                tried = {frozenset((p.frame_id_a, p.frame_id_b)) for p in first.pairs}
                more = self._valid(pairing.more_pairs(first, frames, features), frames)
                again = [p for p in more if frozenset(p) in tried]
                require(not again, KIND, "more_pairs asks for no pair of the first round", repr(again[:3]))
                contract = "the same first round twice gives the same second one"
                require(pairing.more_pairs(first, frames, features) == more, KIND, contract)

    def _graph(self, pairs: list[tuple[int, int]], features: dict[int, Features]) -> MatchGraph:
        """The pairs, matched as is true of the phantom's features."""
        true = phantoms.feature_pair(n=40, n_extra=10)
        views = []
        for a, b in pairs:
            kinds = [0 if same(features[i].xy, true.a.xy) else 1 for i in (a, b)]
            idx = np.ascontiguousarray(true.true_idx[:, kinds])
            views.append(
                TwoView(a, b, Matches(idx, np.ones(len(idx), np.float32)), np.ones(len(idx), bool), "homography")
            )
        return MatchGraph(tuple(views))

    def test_leaves_its_input_alone(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            frames, features = self._input(5, Path(folder))
            kept = self._input(5, Path(folder))
            self.make().pairs(frames, features)
        unchanged = list(features) == list(kept[1]) and all(same(features[i], kept[1][i]) for i in features)
        require(unchanged, KIND, "pairs does not change the features it is given")

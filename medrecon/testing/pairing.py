# SPDX-License-Identifier: Apache-2.0
"""Conformance kit for pairings."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from medrecon.testing import phantoms
from medrecon.testing.contract import require, same
from medrecon.types import Features, FrameSet

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
        require(isinstance(pairs, list), KIND, "pairs returns a list", type(pairs).__name__)
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

    def test_leaves_its_input_alone(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            frames, features = self._input(5, Path(folder))
            kept = self._input(5, Path(folder))
            self.make().pairs(frames, features)
        unchanged = list(features) == list(kept[1]) and all(same(features[i], kept[1][i]) for i in features)
        require(unchanged, KIND, "pairs does not change the features it is given")

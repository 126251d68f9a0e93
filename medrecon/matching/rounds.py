# SPDX-License-Identifier: Apache-2.0
"""The rounds of the matching stage: the pairs of a pairing, then those that the first results make likely."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from medrecon.errors import InputError, PluginError, StageError
from medrecon.matching.match import check_pairs, match_all
from medrecon.matching.verification import VerificationConfig
from medrecon.plugins.contracts import SecondRound
from medrecon.progress import Progress
from medrecon.types import Features, FrameSet, MatchGraph

FIRST, SECOND = "first-round", "second-round"


def match_rounds(
    frames: FrameSet,
    features: Mapping[int, Features],
    pairing,
    matcher,
    verification: VerificationConfig,
    out_dir: Path,
    seed: int,
    progress: Progress,
) -> MatchGraph:
    """Match and verify what ``pairing`` asks for, save ``out_dir/graph.npz`` and return it.

    A pairing with ``more_pairs`` is asked a second time when the first graph stands. Each round keeps its own folder
    until the whole is saved: a run killed in the second round goes on there. The result does not depend on that.
    One with a true ``matches_nothing`` (pairing none) is not asked at all.

    Args:
        pairing: see ``medrecon.plugins.contracts.Pairing``.

    Raises:
        as ``match_all``; PluginError also where a second round asks for a pair of the first.
    """
    second = isinstance(pairing, SecondRound)
    first_dir, second_dir = out_dir / FIRST, out_dir / SECOND
    whole = _finished(out_dir)
    if whole is None and getattr(pairing, "matches_nothing", False):
        whole = MatchGraph(())
        whole.save(out_dir / "graph.npz")
    if whole is None and not second:
        pairs = _first_pairs(pairing, frames, features)
        whole = match_all(frames, features, pairs, matcher, verification, out_dir, seed, progress)
    elif whole is None:
        first = _finished(first_dir)
        if first is None:
            pairs = _first_pairs(pairing, frames, features)
            first = match_all(frames, features, pairs, matcher, verification, first_dir, seed, progress)
        more = _more_pairs(pairing, first, frames, features)
        added = ()
        if more:
            progress.say(
                f"first round: {len(first.verified())} of {len(first.pairs)} pairs verified; "
                f"second round: {len(more)} pairs that see the same of a third frame"
            )
            added = match_all(frames, features, more, matcher, verification, second_dir, seed, progress).pairs
        whole = MatchGraph(first.pairs + added)
        whole.save(out_dir / "graph.npz")
    for folder in (first_dir, second_dir):
        shutil.rmtree(folder, ignore_errors=True)
    return whole


def _finished(folder: Path) -> MatchGraph | None:
    """The graph of a round that was finished before a run was killed; the stage's folder has the same settings."""
    path = folder / "graph.npz"
    try:
        return MatchGraph.load(path) if path.is_file() else None
    except (InputError, KeyError, IndexError, ValueError):
        return None


def _first_pairs(pairing, frames: FrameSet, features: Mapping[int, Features]) -> list[tuple[int, int]]:
    """Raises StageError where the pairing has nothing to go by because the frames have no keypoints."""
    pairs = pairing.pairs(frames, features)
    if not pairs and sum(len(features[f.frame_id]) > 0 for f in frames.frames) < 2:
        raise StageError(
            f"fewer than two of {len(frames)} frames have keypoints: there is nothing to match",
            "look at the pictures: black, plain or masked ones have none; or lower the extractor's threshold",
        )
    return pairs


def _more_pairs(
    pairing: SecondRound, first: MatchGraph, frames: FrameSet, features: Mapping[int, Features]
) -> list[tuple[int, int]]:
    more = check_pairs(pairing.more_pairs(first, frames, features), frames)
    tried = {frozenset((p.frame_id_a, p.frame_id_b)) for p in first.pairs}
    again = [p for p in more if frozenset(p) in tried]
    if again:
        raise PluginError(
            f"the second round of pairing {type(pairing).__name__} asks for frames {again[0][0]} and {again[0][1]} "
            "again, which the first has matched",
            "choose another pairing or report it",
        )
    return more

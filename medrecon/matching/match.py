# SPDX-License-Identifier: Apache-2.0
"""The matching stage: every pair matched and verified, saved as it goes, one graph in the end."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from medrecon.errors import InputError, MedreconError, PluginError
from medrecon.matching.threads import single_blas_thread
from medrecon.matching.verification import VerificationConfig, verify
from medrecon.progress import Progress
from medrecon.types import Features, FrameSet, Matches, MatchGraph, TwoView

# What a kill may cost at most.
SAVE_EVERY_S = 10.0
# More threads than this only wait for memory.
N_THREADS = min(8, os.cpu_count() or 1)
# Features kept in memory; beyond that they are read again from disk.
CACHE_BYTES = 512 * 2**20


def match_all(
    frames: FrameSet,
    features: Mapping[int, Features],
    pairs: list[tuple[int, int]],
    matcher,
    verification: VerificationConfig,
    out_dir: Path,
    seed: int,
    progress: Progress,
) -> MatchGraph:
    """Match and verify ``pairs``, save ``out_dir/graph.npz`` and return it.

    Verified pairs are saved every ten seconds as ``part-0001.npz`` and so on; parts that a killed run left are used
    and removed once the graph stands. Pairs are worked on by a few threads; a matcher is called by one at a time unless
    it has an attribute ``thread_safe = True``. The result depends neither on threads nor on interruptions.

    Args:
        pairs: (frame_id_a, frame_id_b); the graph keeps their order.
        matcher: see ``medrecon.plugins.contracts.Matcher``.
        seed: with the frame ids it fixes each pair's random samples.

    Raises:
        InputError: a pair names a frame without features.
        PluginError: the matcher raised or broke its contract, or the pairs are not pairs; names the culprit.
    """
    pairs = check_pairs(pairs, frames)
    if not pairs:
        raise InputError("there is no pair of frames to match", "use another pairing, or give more frames")
    out_dir.mkdir(parents=True, exist_ok=True)
    done = _load_parts(out_dir, set(pairs))
    progress.begin(len(pairs), "pairs")
    if done:
        progress.advance(len(done))
    by_id, cache = frames.by_id(), _Cache(features)
    parallel = getattr(matcher, "thread_safe", False) is True
    one_at_a_time = nullcontext() if parallel else threading.Lock()

    def work(a: int, b: int, fa: Features, fb: Features) -> TwoView:
        with one_at_a_time:
            matches = checked_match(matcher, fa, fb, (by_id[a].name, by_id[b].name))
        return verify(fa, fb, matches, by_id[a].camera, by_id[b].camera, verification, seed, (a, b))

    todo = deque(p for p in pairs if p not in done)
    unsaved: list[TwoView] = []
    last_save = time.monotonic()
    with single_blas_thread() if parallel else nullcontext(), ThreadPoolExecutor(N_THREADS) as pool:
        waiting: deque = deque()
        try:
            while todo or waiting:
                while todo and len(waiting) < 4 * N_THREADS:
                    a, b = todo.popleft()
                    waiting.append(pool.submit(work, a, b, cache[a], cache[b]))
                view = waiting.popleft().result()
                done[view.frame_id_a, view.frame_id_b] = view
                unsaved.append(view)
                progress.advance(1, inliers=view.n_inliers)
                if time.monotonic() - last_save > SAVE_EVERY_S:
                    MatchGraph(tuple(unsaved)).save(_next_part(out_dir))
                    unsaved.clear()
                    last_save = time.monotonic()
        except BaseException:
            for job in waiting:
                job.cancel()
            if unsaved:  # Ctrl-C loses nothing
                MatchGraph(tuple(unsaved)).save(_next_part(out_dir))
            raise
    graph = MatchGraph(tuple(done[p] for p in pairs))
    graph.save(out_dir / "graph.npz")
    for part in out_dir.glob("part-*.npz"):
        part.unlink()
    return graph


def checked_match(matcher, features_a: Features, features_b: Features, names: tuple[str, str]) -> Matches:
    """One call of a matcher, held to its contract.  Raises PluginError naming the matcher and the pair."""
    who = f"matcher {type(matcher).__name__} on frames {names[0]} and {names[1]}"
    try:
        matches = matcher.match(features_a, features_b)
    except MedreconError:
        raise
    except Exception as e:
        raise PluginError(f"{who} failed: {type(e).__name__}: {e}", "choose another matcher or report it") from e
    if not isinstance(matches, Matches):
        raise PluginError(f"{who} returned {type(matches).__name__}, not Matches", "see docs on writing a matcher")
    try:
        return matches.validate(len(features_a), len(features_b))
    except (InputError, AttributeError, TypeError, ValueError) as e:
        cause = e.cause if isinstance(e, InputError) else f"{type(e).__name__}: {e}"
        raise PluginError(f"{who} returned unusable matches: {cause}", "see docs on writing a matcher") from e


def check_pairs(pairs: list[tuple[int, int]], frames: FrameSet) -> list[tuple[int, int]]:
    """The pairing's output as plain ints.  Raises PluginError on unknown frames, self pairs and repetitions."""
    known, seen, out = set(frames.by_id()), set(), []
    for pair in pairs:
        try:
            a, b = (int(x) for x in pair)
        except (TypeError, ValueError) as e:
            raise PluginError(f"the pairing returned {pair!r}, which is no pair of frame ids") from e
        if a == b or a not in known or b not in known:
            raise PluginError(f"the pairing returned ({a}, {b}), which is no pair of frames in this set")
        if frozenset((a, b)) in seen:
            raise PluginError(f"the pairing returned frames {a} and {b} twice")
        seen.add(frozenset((a, b)))
        out.append((a, b))
    return out


class _Cache:
    """Features by frame id, the most recently used held in memory up to ``CACHE_BYTES``."""

    def __init__(self, features: Mapping[int, Features]):
        self.features, self.kept, self.bytes = features, OrderedDict(), 0

    def __getitem__(self, frame_id: int) -> Features:
        if frame_id in self.kept:
            self.kept.move_to_end(frame_id)
            return self.kept[frame_id]
        try:
            found = self.features[frame_id]
        except KeyError:
            raise InputError(f"frame {frame_id} has no features", "rerun the features stage") from None
        self.kept[frame_id] = found
        self.bytes += found.descriptors.nbytes
        while self.bytes > CACHE_BYTES and len(self.kept) > 2:
            self.bytes -= self.kept.popitem(last=False)[1].descriptors.nbytes
        return found


def _next_part(out_dir: Path) -> Path:
    taken = [int(p.stem.split("-")[1]) for p in out_dir.glob("part-[0-9]*.npz")]
    return out_dir / f"part-{max(taken, default=0) + 1:04d}.npz"


def _load_parts(out_dir: Path, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], TwoView]:
    """Pairs that a killed run had finished; a broken part is ignored."""
    done: dict[tuple[int, int], TwoView] = {}
    for path in sorted(out_dir.glob("part-[0-9]*.npz")):
        try:
            views = MatchGraph.load(path).pairs
        except (InputError, KeyError, IndexError, ValueError):
            path.unlink()
            continue
        done.update({(v.frame_id_a, v.frame_id_b): v for v in views if (v.frame_id_a, v.frame_id_b) in wanted})
    return done

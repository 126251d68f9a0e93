# SPDX-License-Identifier: Apache-2.0
"""The matching stage: every pair matched and verified, saved as it goes, one graph in the end."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from medrecon.errors import InputError, MedreconError, PluginError
from medrecon.matching.threads import shared_torch_threads, single_blas_thread
from medrecon.matching.verification import VerificationConfig, verify
from medrecon.plugins.contracts import BatchMatcher
from medrecon.progress import Progress
from medrecon.types import Features, FrameSet, Matches, MatchGraph, TwoView

# What a kill may cost at most.
SAVE_EVERY_S = 10.0
# More threads than this only wait for memory.
N_THREADS = min(8, os.cpu_count() or 1)
# Features kept in memory; beyond that they are read again from disk.
CACHE_BYTES = 512 * 2**20
# How far is looked for pairs of like size.
BATCHES_AHEAD = 4

_SEE_DOCS = "see docs on writing a matcher"


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
    it has an attribute ``thread_safe = True``. The result depends neither on threads nor on interruptions, nor on
    batches further than the matcher's own arithmetic does. Memory does not grow with the number of pairs or frames,
    but for the matches themselves.

    Args:
        pairs: (frame_id_a, frame_id_b); the graph keeps their order.
        matcher: see ``medrecon.plugins.contracts.Matcher``; a ``BatchMatcher`` gets several pairs of like size at once.
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

    def work(batch: list[_Job]) -> list[TwoView]:
        with one_at_a_time:
            found = checked_matches(
                matcher, [job.features for job in batch], [tuple(by_id[i].name for i in job.ids) for job in batch]
            )
        return [
            verify(*job.features, matches, *(by_id[i].camera for i in job.ids), verification, seed, job.ids)
            for job, matches in zip(batch, found)
        ]

    batches = _batches((p for p in pairs if p not in done), cache, _batch_size(matcher))
    unsaved: list[TwoView] = []
    last_save = time.monotonic()
    with (
        single_blas_thread() if parallel else nullcontext(),
        shared_torch_threads(N_THREADS if parallel else 1) as begin_worker,
        ThreadPoolExecutor(N_THREADS, initializer=begin_worker) as pool,
    ):
        waiting: deque = deque()
        try:
            while True:
                while sum(n for n, _ in waiting) < 4 * N_THREADS and (batch := next(batches, None)):
                    waiting.append((len(batch), pool.submit(work, batch)))
                if not waiting:
                    break
                for view in waiting.popleft()[1].result():
                    done[view.frame_id_a, view.frame_id_b] = view
                    unsaved.append(view)
                    progress.advance(1, inliers=view.n_inliers)
                if time.monotonic() - last_save > SAVE_EVERY_S:
                    MatchGraph(tuple(unsaved)).save(_next_part(out_dir))
                    unsaved.clear()
                    last_save = time.monotonic()
        except BaseException:
            for _, job in waiting:
                job.cancel()
            if unsaved:  # Ctrl-C loses nothing
                MatchGraph(tuple(unsaved)).save(_next_part(out_dir))
            raise
    graph = MatchGraph(tuple(done[p] for p in pairs))
    graph.save(out_dir / "graph.npz")
    for part in out_dir.glob("part-*.npz"):
        part.unlink()
    return graph


class _Job(NamedTuple):
    """A pair with its features."""

    ids: tuple[int, int]
    features: tuple[Features, Features]


def _batch_size(matcher) -> int:
    """Pairs to hand over at once.  Raises PluginError where the matcher's own figure is none."""
    if not isinstance(matcher, BatchMatcher):
        return 1
    if not isinstance(matcher.batch_size, int) or matcher.batch_size < 1:
        raise PluginError(
            f"matcher {type(matcher).__name__}: batch_size is {matcher.batch_size!r}, expected a whole number from 1",
            _SEE_DOCS,
        )
    return matcher.batch_size


def _batches(pairs: Iterable[tuple[int, int]], cache: "_Cache", size: int) -> Iterator[list[_Job]]:
    """All pairs in lists of up to ``size``. Pairs of like size come together, as far as a look at the next
    ``BATCHES_AHEAD`` batches allows: no more features are held than those have."""
    pairs = iter(pairs)
    while ahead := [
        _Job((a, b), (cache[a], cache[b])) for a, b in islice(pairs, size * BATCHES_AHEAD if size > 1 else 1)
    ]:
        ahead.sort(key=lambda job: tuple(map(len, job.features)))
        while ahead:
            yield ahead[:size]
            del ahead[:size]


def checked_matches(matcher, pairs: list[tuple[Features, Features]], names: list[tuple[str, str]]) -> list[Matches]:
    """Some pairs matched, together where there are several and the matcher takes them so, and held to the contract.

    Raises:
        PluginError: names the matcher and the pair.
    """
    if len(pairs) == 1 or not isinstance(matcher, BatchMatcher):
        return [checked_match(matcher, *pair, who) for pair, who in zip(pairs, names)]
    first = f"{type(matcher).__name__} on frames {names[0][0]} and {names[0][1]} and {len(pairs) - 1} more pairs"
    found = _called(lambda: matcher.match_pairs(pairs), f"matcher {first}")
    if not isinstance(found, list) or len(found) != len(pairs):
        what = f"{len(found)} results" if isinstance(found, list) else type(found).__name__
        raise PluginError(f"matcher {first} returned {what}, not a list of {len(pairs)}", _SEE_DOCS)
    return [_checked(matches, matcher, *pair, who) for matches, pair, who in zip(found, pairs, names)]


def checked_match(matcher, features_a: Features, features_b: Features, names: tuple[str, str]) -> Matches:
    """One call of a matcher, held to its contract.  Raises PluginError naming the matcher and the pair."""
    matches = _called(lambda: matcher.match(features_a, features_b), _who(matcher, names))
    return _checked(matches, matcher, features_a, features_b, names)


def _who(matcher, names: tuple[str, str]) -> str:
    return f"matcher {type(matcher).__name__} on frames {names[0]} and {names[1]}"


def _called(call: Callable, who: str):
    """What the matcher returns; what it raises becomes a PluginError unless it is one of ours."""
    try:
        return call()
    except MedreconError:
        raise
    except Exception as e:
        raise PluginError(f"{who} failed: {type(e).__name__}: {e}", "choose another matcher or report it") from e


def _checked(matches, matcher, features_a: Features, features_b: Features, names: tuple[str, str]) -> Matches:
    who = _who(matcher, names)
    if not isinstance(matches, Matches):
        raise PluginError(f"{who} returned {type(matches).__name__}, not Matches", _SEE_DOCS)
    try:
        return matches.validate(len(features_a), len(features_b))
    except (InputError, AttributeError, TypeError, ValueError) as e:
        cause = e.cause if isinstance(e, InputError) else f"{type(e).__name__}: {e}"
        raise PluginError(f"{who} returned unusable matches: {cause}", _SEE_DOCS) from e


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

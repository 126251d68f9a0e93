# SPDX-License-Identifier: Apache-2.0
"""Pairs that a first round of matching makes likely: frames that see the same keypoints of a third one."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from scipy.sparse import csr_matrix

from medrecon.types import MatchGraph

# Of a frame that nearly all others match, only the strongest neighbours are combined with each other: without a limit
# one such frame alone would make n^2 candidates.
STRONGEST = 50


def covisible_pairs(graph: MatchGraph, frame_ids: list[int], k: int) -> list[tuple[int, int]]:
    """For every frame up to ``k`` frames that were not tried with it yet and most likely see the same.

    Query expansion (Agarwal, Snavely, Simon, Seitz and Szeliski, "Building Rome in a Day", ICCV 2009) with a count in
    place of a guess: frames a and b are proposed when keypoints of a third frame c are verified matches both in (a, c)
    and in (c, b); the number of such keypoints, summed over all c, ranks the proposals. Common neighbours alone are no
    evidence: a may see the left half of c and b the right.

    Args:
        graph: what the first round tried, verified or not.
        frame_ids: all frames, in order.
        k: proposals per frame, so that there are at most ``len(frame_ids) * k`` pairs.

    Returns:
        (frame_id_a, frame_id_b), a before b in ``frame_ids``, sorted by position; none of them in ``graph``.
    """
    place = {i: at for at, i in enumerate(frame_ids)}
    tried = {_ordered(place[p.frame_id_a], place[p.frame_id_b]) for p in graph.pairs}
    seen: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for pair in graph.verified():
        a, b, idx = place[pair.frame_id_a], place[pair.frame_id_b], pair.inlier_idx
        seen[a].append((b, idx[:, 0]))
        seen[b].append((a, idx[:, 1]))
    shared: Counter[tuple[int, int]] = Counter()
    for links in seen.values():
        shared.update(_shared_keypoints(links))
    by_frame: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for (a, b), n in shared.items():
        if (a, b) not in tried:
            by_frame[a].append((-n, b))
            by_frame[b].append((-n, a))
    found = {_ordered(a, b) for a, likely in by_frame.items() for _, b in sorted(likely)[:k]}
    return [(frame_ids[a], frame_ids[b]) for a, b in sorted(found)]


def _ordered(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)


def _shared_keypoints(links: list[tuple[int, np.ndarray]]) -> dict[tuple[int, int], int]:
    """Of one frame: how many of its keypoints two neighbours (a, b), a < b, both match.

    Args:
        links: neighbour and the frame's own keypoints matched there, int32 [M], each at most once.
    """
    links = sorted(links, key=lambda link: (-len(link[1]), link[0]))[:STRONGEST]
    rows = np.repeat(np.arange(len(links)), [len(keypoints) for _, keypoints in links])
    columns = np.concatenate([keypoints for _, keypoints in links])
    matched = csr_matrix((np.ones(len(rows), np.int32), (rows, columns)))
    counts = (matched @ matched.T).tocoo()
    return {_ordered(links[i][0], links[j][0]): int(n) for i, j, n in zip(counts.row, counts.col, counts.data) if i < j}

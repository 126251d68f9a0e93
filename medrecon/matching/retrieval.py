# SPDX-License-Identifier: Apache-2.0
"""Pairing `retrieval`: every frame with those that look most like it, so that pairs grow with n * k and not n^2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from pydantic import Field
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from medrecon.config import ComponentConfig
from medrecon.matching.covisibility import covisible_pairs
from medrecon.matching.global_descriptor import describe
from medrecon.types import Features, FrameSet, MatchGraph

# Similarities held at a time.
BLOCK_BYTES = 64 * 2**20


class RetrievalPairingConfig(ComponentConfig):
    k: int = Field(10, ge=1, description="each frame is matched with this many that look most like it")
    min_similarity: float | None = Field(
        None, ge=-1, le=1, description="but not with frames less alike than this (cosine); null: no limit"
    )
    k_second: int = Field(
        5, ge=0, description="second round: each frame also with up to this many that see what its matches see; 0: none"
    )


class RetrievalPairing:
    """For unordered sets. Similarity is the cosine of VLAD vectors pooled from the local descriptors.

    At most n * k pairs in the first round and n * k_second in the second. Frames without keypoints get none; all
    others hang together: where the most similar leave the set in parts, the best links between the parts are added.
    """

    def __init__(self, config: RetrievalPairingConfig):
        self.config = config

    def pairs(self, frames: FrameSet, features: Mapping[int, Features]) -> list[tuple[int, int]]:
        """(frame_id_a, frame_id_b), a before b in the set, sorted by position."""
        ids = [f.frame_id for f in frames.frames]
        vectors, counts = describe(features, ids)
        usable = np.flatnonzero(counts)
        vectors = vectors[usable]
        found = connect(vectors, most_similar(vectors, self.config.k, self.config.min_similarity))
        return [(ids[usable[i]], ids[usable[j]]) for i, j in sorted(found)]

    def more_pairs(
        self, graph: MatchGraph, frames: FrameSet, features: Mapping[int, Features]
    ) -> list[tuple[int, int]]:
        """The second round; see ``covisible_pairs``."""
        return covisible_pairs(graph, [f.frame_id for f in frames.frames], self.config.k_second)


def most_similar(vectors: np.ndarray, k: int, least: float | None = None) -> set[tuple[int, int]]:
    """Rows (i, j), i < j, of which one is among the k most similar of the other; of equals, the first ones.

    Args:
        vectors: float32 [F, D], unit rows.
        least: smallest similarity of a pair, None for any.
    """
    found = set()
    for i, row in _similarities(vectors):
        best = _largest(row, min(k, len(vectors) - 1))
        if least is not None:
            best = best[row[best] >= least]
        found |= {(min(i, j), max(i, j)) for j in best.tolist()}
    return found


def connect(vectors: np.ndarray, pairs: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """The pairs and the fewest, most similar links that join all rows into one graph.

    Boruvka's algorithm: each part adds its best link to another part until there is one part, so what is added is a
    maximum spanning forest over the parts; the similarities are computed again in every round, in blocks.
    """
    pairs = set(pairs)
    while len(vectors) > 1:
        ij = np.array(sorted(pairs), np.int64).reshape(-1, 2)
        n_parts, part = connected_components(
            coo_matrix((np.ones(len(ij)), (ij[:, 0], ij[:, 1])), (len(vectors),) * 2), directed=False
        )
        if n_parts == 1:
            break
        best: dict[int, tuple[float, int, int]] = {}
        for i, row in _similarities(vectors):
            row[part == part[i]] = -np.inf
            j = int(row.argmax())
            link = (-float(row[j]), min(i, j), max(i, j))
            best[part[i]] = min(best.get(part[i], link), link)
        pairs |= {(i, j) for _, i, j in best.values()}
    return pairs


def _similarities(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(i, float32 [F]) for every row i, -inf for itself; the array may be written to."""
    step = max(1, BLOCK_BYTES // (4 * max(1, len(vectors))))
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step] @ vectors.T
        for i, row in enumerate(block, start):
            row[i] = -np.inf
            yield i, row


def _largest(row: np.ndarray, k: int) -> np.ndarray:
    """int64 [k] places of the k largest, largest first, of equals the first."""
    if not k:
        return np.zeros(0, np.int64)
    candidates = np.flatnonzero(row >= np.partition(row, -k)[-k])
    return candidates[np.argsort(-row[candidates], kind="stable")][:k]

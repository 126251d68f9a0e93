# SPDX-License-Identifier: Apache-2.0
"""Nearest-neighbour matching with Lowe's ratio test, for L2 and Hamming descriptors, in bounded memory."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from medrecon.config import ComponentConfig
from medrecon.errors import InputError
from medrecon.types import Features, Matches

# Rows of the distance table held at once: 256 x 4096 float32 fit the second-level cache.
CHUNK_ROWS = 256
DEFAULT_RATIO = {"l2": 0.8, "hamming": 0.9}


class NearestNeighbourMatcherConfig(ComponentConfig):
    mutual: bool = Field(True, description="keep a match only where each keypoint is the other's nearest")
    ratio: float | None = Field(
        None, gt=0, le=1, description="best/second-best distance must be below this, in both directions when mutual; "
        "1 turns the test off; null: 0.8 for L2, 0.9 for Hamming"
    )  # fmt: skip
    max_distance: float | None = Field(
        None, ge=0, description="greatest descriptor distance: Euclidean for L2, bits for Hamming; null: no limit"
    )


class NearestNeighbourMatcher:
    """Matches features of any extractor, as long as both sides come from the same one."""

    thread_safe = True  # match() keeps no state: the matching stage may call it from several threads at once

    def __init__(self, config: NearestNeighbourMatcherConfig):
        self.config = config

    def match(self, features_a: Features, features_b: Features) -> Matches:
        """Matches ordered by keypoint of a; scores = 1 / (1 + distance), for Hamming the share of bits that differ.

        Without ``mutual`` a keypoint of b may be nearest to several of a: only the closest of those is kept, so that
        matches are always one-to-one. Equal distances go to the lower index.

        Raises:
            InputError: the two sides' descriptors cannot be compared.
        """
        a, b, c = features_a, features_b, self.config
        if a.metric != b.metric or (len(a) and len(b) and a.descriptors.shape[1] != b.descriptors.shape[1]):
            raise InputError(
                f"features of {a.extractor!r} ({a.metric}) and {b.extractor!r} ({b.metric}) cannot be compared",
                "use one extractor for all frames",
            )
        if not len(a) or not len(b):
            return Matches.empty()
        ratio = DEFAULT_RATIO[a.metric] if c.ratio is None else c.ratio
        table = _hamming_table if a.metric == "hamming" else _l2_table
        nearest, closeness, second, column_best = _scan(table(a.descriptors, b.descriptors), len(a), len(b))
        rows = np.arange(len(a))
        if c.mutual:
            keep = closeness >= column_best[nearest]
            rows = rows[keep]
        distance = _distance(a.descriptors[rows], b.descriptors[nearest[rows]], a.metric)
        if ratio < 1:
            keep = distance < ratio * _to_distance(second[rows], a.metric)
            rows, distance = rows[keep], distance[keep]
        # Several rows may still claim one column (no mutual check, or ties): the closest, then the first, gets it.
        order = np.lexsort((rows, distance, nearest[rows]))
        first = np.ones(len(order), bool)
        first[1:] = np.diff(nearest[rows][order]) != 0
        chosen = np.sort(order[first])
        rows, distance = rows[chosen], distance[chosen]
        columns = nearest[rows]
        keep = np.ones(len(rows), bool)
        if ratio < 1 and c.mutual and len(rows):
            other = _second_best(table(b.descriptors[columns], a.descriptors), rows)
            keep = distance < ratio * _to_distance(other, a.metric)
        if c.max_distance is not None:
            keep &= distance <= c.max_distance
        rows, columns, distance = rows[keep], columns[keep], distance[keep]
        if a.metric == "hamming":
            distance = distance / (8 * a.descriptors.shape[1])
        return Matches(np.stack([rows, columns], 1).astype(np.int32), (1 / (1 + distance)).astype(np.float32))


def _l2_table(a: np.ndarray, b: np.ndarray):
    """``block(start, stop)`` -> closeness float32 [rows, Nb] = -|a - b|^2 / 2, by one matrix product.

    The squared norms ride along as two more columns: [a, -|a|^2/2, 1] . [b, 1, -|b|^2/2].
    """
    one = lambda x: np.ones((len(x), 1), np.float32)  # noqa: E731
    half = lambda x: np.square(x).sum(1, keepdims=True) * np.float32(-0.5)  # noqa: E731
    left = np.concatenate([a, half(a), one(a)], 1, dtype=np.float32)
    right = np.ascontiguousarray(np.concatenate([b, one(b), half(b)], 1, dtype=np.float32).T)
    return lambda start, stop: left[start:stop] @ right


def _hamming_table(a: np.ndarray, b: np.ndarray):
    """``block(start, stop)`` -> closeness float32 [rows, Nb] = -bits that differ.

    With bits as +-1, the product of two rows is D - 2 * bits that differ: exact in float32, and a matrix product is
    faster here than counting bits.
    """
    bits = lambda x: np.unpackbits(np.ascontiguousarray(x), axis=1).astype(np.float32) * 2 - 1  # noqa: E731
    left, right = bits(a) * 0.5, np.ascontiguousarray(bits(b).T)
    half = np.float32(4 * a.shape[1])
    return lambda start, stop: left[start:stop] @ right - half


def _scan(block, n_a: int, n_b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One pass over the table: per row the best column, its closeness, the second closeness; per column the best."""

    def rows(start: int):
        near = block(start, min(start + CHUNK_ROWS, n_a))
        best = near.argmax(1)
        r = np.arange(len(near))
        closeness = near[r, best].copy()
        top = near.max(0)
        near[r, best] = -np.inf
        return best, closeness, near.max(1), top

    starts = range(0, n_a, CHUNK_ROWS)
    column_best = np.full(n_b, -np.inf, np.float32)
    parts = []
    for best, closeness, second, top in map(rows, starts):
        np.maximum(column_best, top, out=column_best)
        parts.append((best, closeness, second))
    nearest, closeness, second = (np.concatenate(p) for p in zip(*parts))
    return nearest, closeness, second, column_best


def _second_best(block, skip: np.ndarray) -> np.ndarray:
    """float32 [K]: per row of the table the greatest closeness, column ``skip[row]`` left out (-inf when alone)."""
    out = np.empty(len(skip), np.float32)
    for start in range(0, len(skip), CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, len(skip))
        near = block(start, stop)
        near[np.arange(stop - start), skip[start:stop]] = -np.inf
        out[start:stop] = near.max(1)
    return out


def _to_distance(closeness: np.ndarray, metric: str) -> np.ndarray:
    """Closeness of a table -> Euclidean distance or bits; no second neighbour (-inf) is infinitely far."""
    closeness = closeness.astype(np.float64)
    return -closeness if metric == "hamming" else np.sqrt(np.maximum(-2 * closeness, 0))


def _distance(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    """float64 [K] exact distances of rows paired up: the table's float32 cancels digits where distances are small."""
    if metric == "hamming":
        return np.unpackbits(a ^ b, axis=1).sum(1).astype(np.float64)
    return np.linalg.norm(a.astype(np.float64) - b, axis=1)

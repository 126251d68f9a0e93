# SPDX-License-Identifier: Apache-2.0
"""One vector per frame from its local features (VLAD: Jegou et al., CVPR 2010, section 3): which frames look alike."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medrecon.types import Features

N_WORDS = 32
# Strongest keypoints used per frame, and descriptors the vocabulary is learned from.
PER_FRAME = 800
FOR_VOCABULARY = 20000


def describe(features: Mapping[int, Features], frame_ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """One vector per frame, and how many keypoints each frame has.

    The visual words are learned from these very frames (k-means, always from the same start), so no training data
    and no downloads are needed, and the result is deterministic. Every frame is read twice and kept never: memory is
    that of the vectors, of one frame and of the sample for the vocabulary.

    Returns:
        float32 [F, N_WORDS * D], rows of unit length in the order of ``frame_ids``, zero rows where nothing was found
        (and where every descriptor is a visual word itself); int64 [F] numbers of keypoints.
    """
    share = max(1, -(-FOR_VOCABULARY // max(1, len(frame_ids))))
    counts, sample = np.zeros(len(frame_ids), np.int64), []
    for at, i in enumerate(frame_ids):
        found = features[i]
        counts[at], rows = len(found), _local(found)
        if len(rows):
            sample.append(rows[:: -(-len(rows) // share)].copy())
    if not sample:
        return np.zeros((len(frame_ids), 1), np.float32), counts
    words = _words(np.concatenate(sample))
    vectors = np.zeros((len(frame_ids), words.size), np.float32)
    for at, i in enumerate(frame_ids):
        if counts[at]:
            vectors[at] = _vlad(_local(features[i]), words)
    return vectors, counts


def _local(features: Features) -> np.ndarray:
    """float32 [<= PER_FRAME, D] strongest descriptors, unit length; bits become +-1."""
    best = np.argsort(-features.scores, kind="stable")[:PER_FRAME]
    rows = features.descriptors[best]
    if features.metric == "hamming":
        rows = np.unpackbits(rows, axis=1).astype(np.float32) * 2 - 1
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _words(rows: np.ndarray) -> np.ndarray:
    """float32 [K, D] k-means centres (Lloyd), started from a seeded choice of rows."""
    rng = np.random.default_rng(0)
    words = rows[np.sort(rng.choice(len(rows), min(N_WORDS, len(rows)), replace=False))].copy()
    for _ in range(10):
        near = _nearest(rows, words)
        counts = np.bincount(near, minlength=len(words))
        for k in np.flatnonzero(counts):
            words[k] = rows[near == k].mean(0)
    return words


def _nearest(rows: np.ndarray, words: np.ndarray) -> np.ndarray:
    return (rows @ words.T - 0.5 * np.square(words).sum(1)).argmax(1)


def _vlad(rows: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Sums of residuals per word, each normalised (Arandjelovic and Zisserman, CVPR 2013: intra-normalisation)."""
    out = np.zeros(words.shape, np.float32)
    near = _nearest(rows, words)
    for k in np.unique(near):
        out[k] = (rows[near == k] - words[k]).sum(0)
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
    out = out.ravel()
    return out / max(float(np.linalg.norm(out)), 1e-12)

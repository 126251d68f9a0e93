# SPDX-License-Identifier: Apache-2.0
"""Matches between two images, before and after two-view verification."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medrecon.errors import InputError
from medrecon.types.storage import read_npz, write_npz


@dataclass(frozen=True, slots=True)
class Matches:
    """Putative matches of features a and b.

    Attributes:
        idx: int32 [M, 2]; column 0 indexes features a, column 1 features b. One-to-one.
        scores: float32 [M], higher is better.
    """

    idx: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.idx)

    @staticmethod
    def empty() -> "Matches":
        return Matches(np.zeros((0, 2), np.int32), np.zeros(0, np.float32))

    def validate(self, n_a: int, n_b: int) -> "Matches":
        m = len(self.idx)
        if self.idx.shape != (m, 2) or self.idx.dtype != np.int32:
            raise InputError(f"matches: idx must be int32 [M, 2], got {self.idx.dtype} {self.idx.shape}")
        if self.scores.shape != (m,) or self.scores.dtype != np.float32 or not np.isfinite(self.scores).all():
            raise InputError(f"matches: scores must be finite float32 [{m}]")
        if m:
            if self.idx.min() < 0 or self.idx[:, 0].max() >= n_a or self.idx[:, 1].max() >= n_b:
                raise InputError(f"matches: an index lies outside 0..{n_a - 1} / 0..{n_b - 1}")
            if len(np.unique(self.idx[:, 0])) != m or len(np.unique(self.idx[:, 1])) != m:
                raise InputError("matches: a keypoint is matched twice")
        return self


@dataclass(frozen=True, slots=True)
class TwoView:
    """One verified image pair.

    Attributes:
        frame_id_a, frame_id_b: the pair.
        putative: the matcher's matches.
        inliers: bool [M], True where a match survived geometric verification.
        kind: "essential", "fundamental", "homography" or "none" (not verified).
        matrix: float64 [3, 3] of that kind; zeros for "none". For "essential" in normalised coordinates, else pixels.
    """

    frame_id_a: int
    frame_id_b: int
    putative: Matches
    inliers: np.ndarray
    kind: str = "none"
    matrix: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))

    @property
    def n_inliers(self) -> int:
        return int(self.inliers.sum())

    @property
    def inlier_idx(self) -> np.ndarray:
        """int32 [n_inliers, 2]."""
        return self.putative.idx[self.inliers]


@dataclass(frozen=True, slots=True)
class MatchGraph:
    """Every pair that was tried, verified or not."""

    pairs: tuple[TwoView, ...]

    def verified(self) -> list[TwoView]:
        return [p for p in self.pairs if p.kind != "none"]

    def save(self, path: Path) -> None:
        """One npz: pairs back to back, with offsets."""
        counts = np.array([len(p.putative) for p in self.pairs], np.int64)
        cat = lambda parts, shape, dtype: np.concatenate(parts) if len(parts) else np.zeros(shape, dtype)  # noqa: E731
        write_npz(
            path,
            {
                "ids": np.array([(p.frame_id_a, p.frame_id_b) for p in self.pairs], np.int64).reshape(-1, 2),
                "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
                "idx": cat([p.putative.idx for p in self.pairs], (0, 2), np.int32),
                "scores": cat([p.putative.scores for p in self.pairs], 0, np.float32),
                "inliers": cat([p.inliers for p in self.pairs], 0, bool),
                "kind": np.array([p.kind for p in self.pairs], dtype="U12"),
                "matrix": np.array([p.matrix for p in self.pairs], np.float64).reshape(-1, 3, 3),
            },
        )

    @staticmethod
    def load(path: Path) -> "MatchGraph":
        z = read_npz(path)
        o = z["offsets"]
        return MatchGraph(
            tuple(
                TwoView(
                    int(a),
                    int(b),
                    Matches(z["idx"][o[i] : o[i + 1]], z["scores"][o[i] : o[i + 1]]),
                    z["inliers"][o[i] : o[i + 1]],
                    str(z["kind"][i]),
                    z["matrix"][i],
                )
                for i, (a, b) in enumerate(z["ids"])
            )
        )

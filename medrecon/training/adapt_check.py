# SPDX-License-Identifier: Apache-2.0
"""Did adapting help? Judged on held-out frames without labels: tracks that come back, two-view geometry, known warps.

Both sides of the comparison see the same pictures, pairs and warps, and have the same number of keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.bench import metrics, planes
from medrecon.features.extract import checked_extract
from medrecon.matching.verification import VerificationConfig, verify
from medrecon.progress import Progress
from medrecon.types import Features, FrameSet, Matches

RETURN_PX = 3.0
# Figures of a pair, with what they are in words; the first two and the next two decide (see ``verdict``).
FIGURES = {
    "verified": "matches that one rigid scene explains (two-view inliers)",
    "returned": "tracks a -> b -> c -> a that come back within 3 px",
    "verified_share": "share of the matches that are verified",
    "returned_share": "share of the closed tracks that come back",
    "matches": "matches",
    "keypoints": "keypoints of a",
}
WARP_FIGURES = {
    "repeatability": "repeatability under a known homography, 3 px",
    "accuracy": "matches right to 3 px under a known homography, share",
    "correct": "matches right to 3 px under a known homography",
}
RESAMPLES = 2000


@dataclass(frozen=True)
class CheckSettings:
    """What is looked at.

    Attributes:
        gaps: distances of the frames of a pair, in frames of what was read; gaps too long for what is held out go.
        pairs: for each gap, evenly spread over the held-out frames.
        warps: held-out frames that are seen again under a random homography.
        keypoints: per picture, the strongest.
        threshold: least probability of a keypoint. Adapting changes what a probability means; with 0 both sides have
            the same number of keypoints, so that it is their quality that is compared.
    """

    gaps: tuple[int, ...] = (1, 4, 16)
    pairs: int = 12
    warps: int = 12
    keypoints: int = 512
    threshold: float = 0.0


def pairs_of(n: int, gaps: tuple[int, ...], count: int) -> list[tuple[int, int]]:
    """(gap, first frame) of every triple a, a + gap, a + 2 gap within ``n`` frames, at most ``count`` for a gap."""
    out = []
    for gap in gaps:
        starts = np.arange(max(0, n - 2 * gap))
        if len(starts):
            chosen = np.unique(np.linspace(0, len(starts) - 1, min(count, len(starts))).round().astype(int))
            out += [(gap, int(starts[i])) for i in chosen]
    return out


def measure(
    frames: FrameSet, weights: str | Path, device: str, settings: CheckSettings, seed: int, progress: Progress
) -> dict[str, list[dict[str, Any]]]:
    """Figures of one set of SuperPoint weights.

    Returns:
        "pairs": rows {"gap", "frame", name of FIGURES: value}; "warps": rows {"frame", name of WARP_FIGURES: value};
        None where a figure is not defined.
    """
    import medrecon

    extractor = medrecon.create(
        "extractor",
        "superpoint",
        weights=weights,
        device=device,
        max_keypoints=settings.keypoints,
        threshold=settings.threshold,
    )
    matcher = medrecon.create("matcher", "nearest-neighbour")
    made: dict[int, Features] = {}

    def features(i: int) -> Features:
        if i not in made:
            f = frames.frames[i]
            made[i] = checked_extract(extractor, f.load_image(), f.load_mask(), f.name)
        return made[i]

    triples = pairs_of(len(frames), settings.gaps, settings.pairs)
    warped = np.unique(np.linspace(0, len(frames) - 1, min(settings.warps, len(frames))).round().astype(int))
    progress.begin(len(triples) + len(warped), "pairs")
    rows = []
    for gap, start in triples:
        a, b, c = (features(start + k * gap) for k in range(3))
        rows.append({"gap": gap, "frame": start, **_pair(a, b, c, matcher, seed, start)})
        progress.advance()
    random = np.random.default_rng(seed)
    warps = []
    for i in warped.tolist():
        warps.append({"frame": i, **_warp(frames, i, features(i), extractor, matcher, random)})
        progress.advance()
    return {"pairs": rows, "warps": warps}


def _pair(a: Features, b: Features, c: Features, matcher, seed: int, start: int) -> dict[str, float | None]:
    matches = matcher.match(a, b)
    verified = verify(a, b, matches, None, None, VerificationConfig(), seed, (start, start + 1)).n_inliers
    closed, returned = cycle(matches, matcher.match(b, c), matcher.match(c, a), a.xy)
    return {
        "verified": verified,
        "returned": returned,
        "verified_share": verified / len(matches) if len(matches) else None,
        "returned_share": returned / closed if closed else None,
        "matches": len(matches),
        "keypoints": len(a),
    }


def cycle(ab: Matches, bc: Matches, ca: Matches, xy_a: np.ndarray) -> tuple[int, int]:
    """(tracks a -> b -> c -> a that three matches close, those of them that end within 3 px of where they began)."""
    step_bc, step_ca = dict(bc.idx.tolist()), dict(ca.idx.tolist())
    ends = [(i, step_ca[step_bc[j]]) for i, j in ab.idx.tolist() if step_bc.get(j) in step_ca]
    if not ends:
        return 0, 0
    first, last = np.array(ends).T
    distance = np.linalg.norm(xy_a[first].astype(np.float64) - xy_a[last], axis=1)
    return len(ends), int((distance <= RETURN_PX).sum())


def _warp(frames: FrameSet, i: int, a: Features, extractor, matcher, random) -> dict[str, float | None]:
    """A held-out frame and the same frame under a homography whose truth is known."""
    frame = frames.frames[i]
    image, mask = frame.load_image(), frame.load_mask()
    seen, truth = planes.warp(image, planes.random_homography((frame.width_px, frame.height_px), random))
    allowed = truth.valid_b if truth.valid_b is not None else np.ones(image.shape[:2], bool)
    if mask is not None:
        moved, _ = planes.warp(mask.astype(np.uint8) * 255, truth.b_from_a)
        allowed = allowed & (moved > 127)
    b = checked_extract(extractor, seen, allowed, frame.name)
    matches = matcher.match(a, b)
    error, judged = metrics.match_errors_px(a.xy[matches.idx[:, 0]], b.xy[matches.idx[:, 1]], truth)
    correct = int((judged & (error <= RETURN_PX)).sum())
    return {
        "repeatability": metrics.repeatability(a.xy, b.xy, truth, RETURN_PX),
        "accuracy": correct / int(judged.sum()) if judged.any() else None,
        "correct": correct,
    }


def compare(before: dict[str, list], after: dict[str, list], seed: int) -> list[dict[str, Any]]:
    """One row for each figure and gap (gap None: all of them), and for each figure of the warps.

    Each has "before" and "after" (means), "change" (mean over pairs of after - before), "low" and "high" (95 %
    interval of the change: percentile bootstrap over pairs, Efron and Tibshirani 1993, chapter 13) and "n" pairs.
    A pair in which a figure is undefined on either side is left out of that figure.
    """
    gaps = sorted({r["gap"] for r in before["pairs"]})
    table = [
        _compared(name, gap, *([r for r in rows["pairs"] if gap in (None, r["gap"])] for rows in (before, after)), seed)
        for gap in (*gaps, None)
        for name in FIGURES
    ]
    return table + [_compared(name, "warp", before["warps"], after["warps"], seed) for name in WARP_FIGURES]


def _compared(name: str, gap, before: list[dict], after: list[dict], seed: int) -> dict[str, Any]:
    both = [(b[name], a[name]) for b, a in zip(before, after) if b[name] is not None and a[name] is not None]
    row: dict[str, Any] = {"figure": name, "gap": gap, "n": len(both)}
    if not both:
        return {**row, "before": None, "after": None, "change": None, "low": None, "high": None}
    was, now = np.array(both, np.float64).T
    change = now - was
    drawn = np.random.default_rng(seed).integers(0, len(change), (RESAMPLES, len(change)))
    low, high = np.percentile(change[drawn].mean(1), [2.5, 97.5])
    return {
        **row,
        "before": float(was.mean()),
        "after": float(now.mean()),
        "change": float(change.mean()),
        "low": float(low),
        "high": float(high),
    }


def verdict(table: list[dict[str, Any]]) -> str:
    """ "better", "worse" or "unclear", over all gaps.

    Better: verified matches or returned tracks rose beyond chance (the interval of the change lies above 0), and
    neither of them nor their shares fell beyond chance. Worse: one of the four fell beyond chance, none rose.
    """
    rows = {r["figure"]: r for r in table if r["gap"] is None}
    rose = [n for n in ("verified", "returned") if (rows[n]["low"] or 0) > 0]
    shares = ("verified", "returned", "verified_share", "returned_share")
    fell = [n for n in shares if rows[n]["high"] is not None and rows[n]["high"] < 0]
    if rose and not fell:
        return "better"
    return "worse" if fell and not rose else "unclear"


def markdown(table: list[dict[str, Any]]) -> str:
    """The comparison as a table for people."""
    lines = ["| figure | frames apart | before | after | change (95 %) | pairs |", "|---|---|---|---|---|---|"]
    for r in table:
        words = {**FIGURES, **WARP_FIGURES}[r["figure"]]
        gap = {None: "all", "warp": "-"}.get(r["gap"], r["gap"])
        if r["before"] is None:
            lines.append(f"| {words} | {gap} | - | - | - | 0 |")
            continue
        digits = 3 if "share" in r["figure"] or r["figure"] in ("repeatability", "accuracy") else 1
        number = lambda v, sign="", d=digits: f"{v:{sign}.{d}f}"  # noqa: E731
        change = f"{number(r['change'], '+')} ({number(r['low'], '+')} to {number(r['high'], '+')})"
        lines.append(f"| {words} | {gap} | {number(r['before'])} | {number(r['after'])} | {change} | {r['n']} |")
    return "\n".join(lines) + "\n"

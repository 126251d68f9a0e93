# SPDX-License-Identifier: Apache-2.0
"""From cached predictions and truth to figures: one row per pair, then means with their spread over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from medrecon.bench import metrics
from medrecon.bench.cases import Case, CaseFolder, object_region
from medrecon.bench.geometry import DepthPair, PairTruth
from medrecon.bench.predict import Predictions
from medrecon.images import cv2, to_grey  # noqa: F401  (cv2 must be imported before pycolmap)
from medrecon.types import Rigid3

import pycolmap  # isort: skip

THRESHOLDS_PX = (1, 3, 5)
CORRECT_PX = 3.0  # for repeatability, precision and recall
POSE_AUC_DEG = (5.0, 10.0, 20.0)
CORNER_AUC_PX = (3.0, 5.0, 10.0)
RANSAC_PX = 2.0

# Figures per pair whose mean goes into the tables, with the direction that is better.
PER_PAIR = {
    "keypoints": "", "repeatability": "higher", **{f"mma_{t}px": "higher" for t in THRESHOLDS_PX},
    "precision": "higher", "recall": "higher", "matches": "", "correct_matches": "higher", "verified_matches": "higher",
    "occupied_cells": "higher", "clark_evans": "higher", "low_texture_cells": "higher",
    "extract_ms": "lower", "match_ms": "lower",
}  # fmt: skip


def evaluate_pair(folder: CaseFolder, case: Case, made: Predictions) -> dict[str, float | None]:
    """Every figure of one method on one pair."""
    truth = folder.truth(case)
    a, b, matches = made.features(case.image_a), made.features(case.image_b), made.matches(case)
    matched_a, matched_b = a.xy[matches.idx[:, 0]], b.xy[matches.idx[:, 1]]
    error, judged = metrics.match_errors_px(matched_a, matched_b, truth)
    correct = judged & (error <= CORRECT_PX)
    possible = metrics.true_matches(a.xy, b.xy, truth, CORRECT_PX)
    image, mask = folder.image(case.image_a)
    covered = metrics.spread(a.xy, to_grey(image), object_region(image, mask, truth))
    return {
        "keypoints": (len(a) + len(b)) / 2,
        "repeatability": metrics.repeatability(a.xy, b.xy, truth, CORRECT_PX),
        **{f"mma_{t}px": metrics.matching_accuracy(error, judged, t) for t in THRESHOLDS_PX},
        "precision": float(correct.sum() / judged.sum()) if judged.any() else None,
        "recall": recall(matches.idx, possible),
        "matches": len(matches),
        "judged_matches": int(judged.sum()),
        "correct_matches": int(correct.sum()),
        "occupied_cells": covered.occupied,
        "clark_evans": covered.clark_evans,
        "low_texture_cells": covered.low_texture,
        "extract_ms": made.extract_ms(case.image_a),
        "match_ms": made.match_ms(case),
        **_two_view(matched_a, matched_b, truth),
    }


def recall(found: np.ndarray, possible: np.ndarray) -> float | None:
    """Share of the ``possible`` matches int [K, 2] that are among the ``found`` int [M, 2]; None when K is 0."""
    if not len(possible):
        return None
    return len({tuple(m) for m in found.tolist()} & {tuple(m) for m in possible.tolist()}) / len(possible)


def _two_view(xy_a: np.ndarray, xy_b: np.ndarray, truth: PairTruth) -> dict[str, float | None]:
    """Error of the geometry estimated from the matches by LO-RANSAC, and how many matches it keeps."""
    points = xy_a.astype(np.float64), xy_b.astype(np.float64)
    if isinstance(truth, DepthPair):
        pose, n = estimate_pose(*points, truth)
        return {"verified_matches": n, "pose_error_deg": _finite(metrics.pose_error_deg(pose, truth.cam_b_from_a)),
                "corner_error_px": None}  # fmt: skip
    homography, n = estimate_homography(*points)
    error = metrics.corner_error_px(homography, truth.b_from_a, truth.size_a)
    return {"verified_matches": n, "pose_error_deg": None, "corner_error_px": _finite(error)}


def _finite(value: float) -> float:
    """Failed estimates as a number that JSON and CSV can hold: beyond every threshold."""
    return value if np.isfinite(value) else 1e9


def estimate_pose(xy_a: np.ndarray, xy_b: np.ndarray, truth: DepthPair) -> tuple[Rigid3 | None, int]:
    """(``cam_b_from_a`` with unit translation or None, matches that support it), the intrinsics being known."""
    if len(xy_a) < 5:
        return None, 0
    c = truth.camera
    camera = pycolmap.Camera(model=c.model, width=c.width_px, height=c.height_px, params=list(c.params))
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.max_error, options.ransac.random_seed = RANSAC_PX, 0
    options.min_num_inliers, options.compute_relative_pose = 5, True
    same = np.repeat(np.arange(len(xy_a), dtype=np.uint32)[:, None], 2, 1)
    found = pycolmap.estimate_calibrated_two_view_geometry(camera, xy_a, camera, xy_b, same, options)
    n = len(found.inlier_matches)
    if found.cam2_from_cam1 is None or n < 5 or not np.linalg.norm(found.cam2_from_cam1.translation) > 0:
        return None, n
    pose = np.vstack([found.cam2_from_cam1.matrix(), (0, 0, 0, 1)])
    return (Rigid3.from_matrix(pose), n) if np.isfinite(pose).all() else (None, n)


def estimate_homography(xy_a: np.ndarray, xy_b: np.ndarray) -> tuple[np.ndarray | None, int]:
    """(float64 [3, 3] or None, matches that support it)."""
    if len(xy_a) < 4:
        return None, 0
    options = pycolmap.RANSACOptions()
    options.max_error, options.random_seed = RANSAC_PX, 0
    found = pycolmap.estimate_homography_matrix(xy_a, xy_b, options)
    if found is None or abs(found["H"][2, 2]) < 1e-12:
        return None, 0
    # Its scale and sign are free; ``transfer`` tells points in front from points behind by the sign.
    return np.asarray(found["H"], np.float64) / found["H"][2, 2], int(found["num_inliers"])


# -- over many pairs ---------------------------------------------------------------------------------------------------
def summarise(rows: list[dict], seeds: Iterable[int]) -> dict[str, dict]:
    """Figures of a set of pairs.

    Args:
        rows: ``evaluate_pair`` with "seed" added.

    Returns:
        name -> {"mean", "std" (over seeds, None with one), "median" (over pairs; None for areas), "n" (pairs)}.
    """
    out = {name: _figure(rows, seeds, lambda part, name=name: _mean(part, name)) for name in PER_PAIR}
    for name, entry in out.items():
        values = _values(rows, name)
        entry["median"], entry["n"] = (float(np.median(values)) if values else None), len(values)
    for error, thresholds, unit in (("pose_error_deg", POSE_AUC_DEG, "deg"), ("corner_error_px", CORNER_AUC_PX, "px")):
        if not _values(rows, error):
            continue
        for t in thresholds:
            area = lambda part, t=t, error=error: _auc(part, error, t)
            figure = _figure(rows, seeds, area)
            out[f"{error.split('_')[0]}_auc_{t:g}{unit}"] = {**figure, "median": None, "n": len(_values(rows, error))}
    return out


def _figure(rows: list[dict], seeds: Iterable[int], of: Callable[[list[dict]], float | None]) -> dict:
    per_seed = [of([r for r in rows if r["seed"] == seed]) for seed in seeds]
    known = [v for v in per_seed if v is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
    }


def _values(rows: list[dict], name: str) -> list[float]:
    return [r[name] for r in rows if r.get(name) is not None]


def _mean(rows: list[dict], name: str) -> float | None:
    values = _values(rows, name)
    return float(np.mean(values)) if values else None


def _auc(rows: list[dict], error: str, threshold: float) -> float | None:
    values = _values(rows, error)
    return metrics.auc(np.array(values), (threshold,))[0] if values else None

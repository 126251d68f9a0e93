# SPDX-License-Identifier: Apache-2.0
"""Figures of merit of keypoints, matches and two-view geometry, against exact truth.

Distances are pixels of the picture as given to the extractor. A figure that is not defined (no keypoints, no matches
that the truth can judge) is None, never NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from medrecon.bench.geometry import PairTruth, look_up, transfer
from medrecon.metrics.poses import rotation_angle_deg
from medrecon.types import Rigid3


def repeatability(xy_a: np.ndarray, xy_b: np.ndarray, truth: PairTruth, threshold_px: float = 3.0) -> float | None:
    """Share of the keypoints visible in both pictures that the other picture found again.

    (sum_i [min_j |a_i -> b - b_j| <= t] + the same from b) / (N_a + N_b), over keypoints whose true place in the other
    picture is known and visible: DeTone et al., "SuperPoint" (CVPRW 2018), section 5 and appendix A.
    """
    found = n = 0
    for here, there, carry in ((xy_a, xy_b, truth.a_to_b), (xy_b, xy_a, truth.b_to_a)):
        moved, known, visible = carry(here)
        moved = moved[known & visible]
        n += len(moved)
        if len(moved) and len(there):
            found += int((cKDTree(there).query(moved)[0] <= threshold_px).sum())
    return found / n if n else None


def match_errors_px(xy_a: np.ndarray, xy_b: np.ndarray, truth: PairTruth) -> tuple[np.ndarray, np.ndarray]:
    """Error of each match and whether the truth can judge it.

    Args:
        xy_a, xy_b: float [M, 2]: the matched points, row by row.

    Returns:
        error float64 [M]: distance between b's point and the true place of a's point; infinite where b cannot see it.
        judged bool [M]: the truth knows where a's point is (a rendering has no depth off the object).
    """
    moved, known, visible = truth.a_to_b(xy_a)
    error = np.full(len(moved), np.inf)
    ok = known & visible
    error[ok] = np.linalg.norm(moved[ok] - np.asarray(xy_b, np.float64)[ok], axis=1)
    return error, known


def matching_accuracy(error_px: np.ndarray, judged: np.ndarray, threshold_px: float) -> float:
    """Share of the judged matches within the threshold, 0 without any: mean matching accuracy is its mean over pairs
    (Mikolajczyk and Schmid, PAMI 27, 2005; Dusmanu et al., "D2-Net", CVPR 2019, section 5.1)."""
    n = int(judged.sum())
    return float((error_px[judged] <= threshold_px).sum() / n) if n else 0.0


def true_matches(xy_a: np.ndarray, xy_b: np.ndarray, truth: PairTruth, threshold_px: float = 3.0) -> np.ndarray:
    """int64 [K, 2]: pairs of keypoints that a perfect matcher could have found, one-to-one.

    Each is the other's nearest neighbour after transfer, in both directions, within the threshold and visible
    (the ground truth of Sarlin et al., "SuperGlue", CVPR 2020, appendix).
    """
    none = np.zeros((0, 2), np.int64)
    if not len(xy_a) or not len(xy_b):
        return none
    a_in_b, known_a, visible_a = truth.a_to_b(xy_a)
    b_in_a, known_b, visible_b = truth.b_to_a(xy_b)
    rows = np.flatnonzero(known_a & visible_a)
    if not len(rows):
        return none
    distance, nearest = cKDTree(xy_b).query(a_in_b[rows])
    rows, nearest = rows[distance <= threshold_px], nearest[distance <= threshold_px]
    ok = (known_b & visible_b)[nearest]
    rows, nearest = rows[ok], nearest[ok]
    if not len(rows):
        return none
    back_distance, back = cKDTree(xy_a).query(b_in_a[nearest])
    mutual = (back == rows) & (back_distance <= threshold_px)
    return np.stack([rows[mutual], nearest[mutual]], 1)


def auc(errors: np.ndarray, thresholds: tuple[float, ...]) -> list[float]:
    """Area under the cumulative error curve up to each threshold, divided by the threshold (1 = every error is 0).

    Exact for the piecewise linear curve through (e_i, i / n), as in SuperGlue's evaluation (section 5.2). Failed
    estimates count with an infinite error.
    """
    e = np.sort(np.asarray(errors, np.float64))
    n = len(e)
    if not n:
        return [0.0 for _ in thresholds]
    x = np.concatenate([[0.0], e])
    recall = np.arange(n + 1) / n
    areas = []
    for t in thresholds:
        last = int(np.searchsorted(x, t))
        cut_x, cut_r = np.append(x[:last], t), np.append(recall[:last], recall[last - 1])
        areas.append(float((np.diff(cut_x) * (cut_r[1:] + cut_r[:-1]) / 2).sum() / t))
    return areas


def pose_error_deg(estimate: Rigid3 | None, truth: Rigid3) -> float:
    """max(angle between the rotations, angle between the translation directions); infinite without an estimate.

    Args:
        estimate, truth: ``cam_b_from_a``. The estimate's scale does not matter, its sign does.
    """
    if estimate is None:
        return float("inf")
    t, s = np.asarray(estimate.translation, np.float64), np.asarray(truth.translation, np.float64)
    # atan2 of sine and cosine: the arc cosine alone is blind to small angles.
    turn = np.degrees(np.arctan2(np.linalg.norm(np.cross(t, s)), t @ s))
    return float(max(rotation_angle_deg(estimate.rotation @ truth.rotation.T), turn))


def corner_error_px(estimate: np.ndarray | None, truth: np.ndarray, size: tuple[int, int]) -> float:
    """Mean distance of the picture's four corners under two homographies float [3, 3]; infinite without an estimate."""
    if estimate is None:
        return float("inf")
    w, h = size
    corners = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float64)
    distance = np.linalg.norm(transfer(estimate, corners) - transfer(truth, corners), axis=1)
    return float(distance.mean()) if np.isfinite(distance).all() else float("inf")


@dataclass(frozen=True, slots=True)
class Spread:
    """How keypoints cover a picture.

    Attributes:
        occupied: share of the usable cells of the grid that hold a keypoint.
        clark_evans: mean distance to the nearest other keypoint, divided by what complete spatial randomness of the
            same density gives, 0.5 / sqrt(density): 1 is random, below 1 clustered, above 1 even (P. J. Clark and
            F. C. Evans, "Distance to nearest neighbor", Ecology 35(4), 1954). No correction at the border. None with
            fewer than two keypoints.
        low_texture: share of the usable cells of lowest gradient (the lower third) that hold a keypoint.
    """

    occupied: float | None
    clark_evans: float | None
    low_texture: float | None


def spread(xy: np.ndarray, grey: np.ndarray, usable: np.ndarray | None = None, cell_px: int = 16) -> Spread:
    """Dispersion of keypoints and their share in low texture, on a grid of square cells.

    Args:
        xy: float [N, 2].
        grey: uint8 [H, W].
        usable: bool [H, W], True = may hold keypoints; a cell counts when more than half of it is usable.
        cell_px: side of a cell; incomplete cells at the right and lower border are left out.
    """
    rows, columns = grey.shape[0] // cell_px, grey.shape[1] // cell_px

    def cells(values: np.ndarray) -> np.ndarray:
        return values[: rows * cell_px, : columns * cell_px].reshape(rows, cell_px, columns, cell_px).mean((1, 3))

    g = grey.astype(np.float64)
    texture = cells(np.hypot(*np.gradient(g)))
    usable = np.ones(grey.shape, bool) if usable is None else usable
    counts = cells(usable.astype(np.float64)) > 0.5
    held = np.zeros((rows, columns), bool)
    xy = np.asarray(xy, np.float64).reshape(-1, 2)
    at = np.floor(xy / cell_px).astype(np.int64)
    at = at[(at[:, 0] < columns) & (at[:, 1] < rows)]
    held[at[:, 1], at[:, 0]] = True
    if not counts.any():
        return Spread(None, None, None)
    low = counts & (texture <= np.quantile(texture[counts], 1 / 3))
    inside = xy[look_up(usable, xy, False)]
    ratio = None
    if len(inside) > 1:
        nearest = cKDTree(inside).query(inside, k=2)[0][:, 1]
        ratio = float(nearest.mean() / (0.5 / np.sqrt(len(inside) / usable.sum())))
    return Spread(float(held[counts].mean()), ratio, float(held[low].mean()))

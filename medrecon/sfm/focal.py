# SPDX-License-Identifier: Apache-2.0
"""First guess of an unknown focal length from the epipolar geometry of verified pairs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medrecon.types import Features, MatchGraph, TwoView

# Search range and default, in units of the longer image side.  0.3 is a field of view of 118 deg, 8 one of 7 deg.
MIN_RATIO, MAX_RATIO, DEFAULT_RATIO = 0.3, 8.0, 1.2
_MAX_PAIRS, _MIN_INLIERS, _CLIP, _FOLDS = 600, 30, 0.15, 3
# At half and at twice the best focal length the cost must be this much higher. Seen: 1.5 and more where the motion
# tells the focal length; 1.2 to 1.3 around a valley at 0.4 made by noise alone, on a circle about a point (true: 1.07).
_DEPTH, _DEPTH_OF_PARTS = 1.4, 1.1
# Looked at beyond the accepted range, so that a valley near its end has two sides too.
_MARGIN = 3.0


def fundamental_from_inliers(xy_a: np.ndarray, xy_b: np.ndarray) -> np.ndarray:
    """Normalised eight-point algorithm (Hartley, PAMI 1997).  float [M >= 8, 2] px each -> float64 [3, 3], xb' F xa."""
    normalised, transforms = [], []
    for xy in (np.asarray(xy_a, np.float64), np.asarray(xy_b, np.float64)):
        mean = xy.mean(0)
        s = np.sqrt(2.0) / max(np.sqrt(((xy - mean) ** 2).sum(1)).mean(), 1e-9)
        transforms.append(np.array([[s, 0, -s * mean[0]], [0, s, -s * mean[1]], [0, 0, 1.0]]))
        normalised.append(np.c_[(xy - mean) * s, np.ones(len(xy))])
    a, b = normalised
    rows = (b[:, :, None] * a[:, None, :]).reshape(-1, 9)
    f = np.linalg.eigh(rows.T @ rows)[1][:, 0].reshape(3, 3)
    u, d, vt = np.linalg.svd(f)
    return transforms[1].T @ (u @ np.diag([d[0], d[1], 0.0]) @ vt) @ transforms[0]


def focal_costs(fundamentals: np.ndarray, sizes_a: np.ndarray, sizes_b: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """How far ``K_b' F K_a`` is from an essential matrix, whose two singular values are equal.

    Mendonca and Cipolla, "A simple technique for self-calibration", CVPR 1999, eq. 4 for one pair.

    Args:
        fundamentals: float64 [P, 3, 3] in pixels.
        sizes_a, sizes_b: [P, 2] (width, height) px; the principal points are taken in the centres.
        ratios: float [R] focal length over the longer side.

    Returns:
        float64 [P, R] in 0..1, 0 = exactly an essential matrix.
    """
    out = np.empty((len(fundamentals), len(ratios)))
    for r, ratio in enumerate(ratios):
        ks = []
        for size in (sizes_a, sizes_b):
            k = np.zeros((len(size), 3, 3))
            k[:, 0, 0] = k[:, 1, 1] = ratio * size.max(1)
            k[:, :2, 2] = size / 2
            k[:, 2, 2] = 1
            ks.append(k)
        d = np.linalg.svd(ks[1].transpose(0, 2, 1) @ fundamentals @ ks[0], compute_uv=False)
        out[:, r] = (d[:, 0] - d[:, 1]) / np.maximum(d[:, 0] + d[:, 1], 1e-300)
    return out


def _usable(pair: TwoView) -> bool:
    return pair.kind in ("essential", "fundamental") and pair.n_inliers >= _MIN_INLIERS


def _valley(costs: np.ndarray, ratios: np.ndarray, depth: float) -> float | None:
    """Ratio at the minimum of the mean clipped cost; None where that is out of range or the valley not ``depth`` deep.

    Args:
        depth: least cost at half and at twice the ratio, over that of the minimum.
    """
    total = np.minimum(costs, _CLIP).mean(0)
    best = int(total.argmin())
    if not MIN_RATIO <= ratios[best] <= MAX_RATIO:
        return None
    rim = min(total[ratios < ratios[best] / 2].min(), total[ratios > ratios[best] * 2].min())
    if rim < depth * total[best] + 1e-3:
        return None
    # Vertex of the parabola through the minimum and its neighbours, in log focal length.
    y0, y1, y2 = total[best - 1 : best + 2]
    shift = 0.5 * (y0 - y2) / max(y0 - 2 * y1 + y2, 1e-12)
    return float(ratios[best] * (ratios[1] / ratios[0]) ** np.clip(shift, -0.5, 0.5))


def estimate_focal_ratio(graph: MatchGraph, features: Mapping[int, Features]) -> float | None:
    """Focal length over the longer image side, one value for all frames.

    None where the matches do not tell: too few pairs, or motions that leave the focal length open (pure sideways
    motion, cameras circling a point at one distance: Sturm, "On focal length calibration from two views", CVPR 2001).
    Those show as a cost without a valley, or as parts of the pairs that contradict each other.
    """
    pairs = sorted((p for p in graph.pairs if _usable(p)), key=lambda p: (p.frame_id_a, p.frame_id_b))
    if len(pairs) < _FOLDS * 3:
        return None
    pairs = [pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, _MAX_PAIRS).round().astype(int))]
    matrices, sizes = [], []
    for p in pairs:
        fa, fb = features[p.frame_id_a], features[p.frame_id_b]
        idx = p.inlier_idx
        matrices.append(fundamental_from_inliers(fa.xy[idx[:, 0]], fb.xy[idx[:, 1]]))
        sizes.append((fa.image_size, fb.image_size))
    sizes = np.array(sizes, np.float64)
    ratios = np.geomspace(MIN_RATIO / _MARGIN, MAX_RATIO * _MARGIN, 132)
    costs = focal_costs(np.array(matrices), sizes[:, 0], sizes[:, 1], ratios)
    folds = [_valley(costs[i::_FOLDS], ratios, _DEPTH_OF_PARTS) for i in range(_FOLDS)]
    if any(f is None for f in folds) or max(folds) > 1.5 * min(folds):
        return None
    return _valley(costs, ratios, _DEPTH)

# SPDX-License-Identifier: Apache-2.0
"""Similarity alignment of point sets and of camera trajectories, in closed form."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medrecon.errors import InputError
from medrecon.types import Rigid3, Sim3

# Below this ratio of the second to the first singular value the centres lie on a line, and what they say about the
# rotation around that line is noise.
COLLINEAR = 1e-2


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """Rotation closest to ``matrix`` [3, 3] in the Frobenius norm."""
    u, _, vt = np.linalg.svd(matrix)
    return u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt


def umeyama(source: np.ndarray, target: np.ndarray, fixed_scale: float | None = None) -> Sim3:
    """Least-squares similarity ``target_from_source``.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991, eq. 40-42.

    Args:
        source, target: float [N, 3], corresponding rows, N >= 3 and not on one line.
        fixed_scale: use this scale instead of estimating it.

    Raises:
        InputError: fewer than three points, shapes that differ, or points that leave the rotation open.
    """
    x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != 3:
        raise InputError(f"alignment needs two [N, 3] arrays of the same length, got {x.shape} and {y.shape}")
    if len(x) < 3 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(f"alignment needs at least three finite points, got {len(x)}")
    mean_x, mean_y = x.mean(0), y.mean(0)
    xc, yc = x - mean_x, y - mean_y
    variance_x = (xc**2).sum() / len(x)
    u, d, vt = np.linalg.svd(yc.T @ xc / len(x))
    if variance_x <= 0 or d[1] <= 1e-12 * max(d[0], np.finfo(float).tiny):
        raise InputError("the points lie on one line or in one place: the rotation is not determined")
    s = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(s) @ vt
    scale = float(d @ s) / variance_x if fixed_scale is None else float(fixed_scale)
    return Sim3(scale, rotation, mean_y - scale * rotation @ mean_x).validate()


def is_spread(points: np.ndarray) -> bool:
    """True when points float [N, 3] span at least a plane."""
    if len(points) < 3:
        return False
    d = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return bool(d[1] > COLLINEAR * d[0])


def align_trajectories(cam_from_a: Mapping[int, Rigid3], cam_from_b: Mapping[int, Rigid3]) -> Sim3:
    """``b_from_a`` from the cameras both trajectories hold.

    Centres that span a plane are aligned by :func:`umeyama`. Two cameras, or centres on a line, leave the rotation
    around that line open, so there the camera orientations give the rotation (chordal mean) and the centres only the
    scale.

    Raises:
        InputError: fewer than two common cameras, or all of them in one place.
    """
    ids = sorted(set(cam_from_a) & set(cam_from_b))
    if len(ids) < 2:
        raise InputError(f"aligning trajectories needs two common cameras, there are {len(ids)}")
    a = np.array([cam_from_a[i].center for i in ids])
    b = np.array([cam_from_b[i].center for i in ids])
    if is_spread(a) and is_spread(b):
        return umeyama(a, b)
    rotation = _nearest_rotation(sum(cam_from_b[i].rotation.T @ cam_from_a[i].rotation for i in ids))
    ac, bc = (a - a.mean(0)) @ rotation.T, b - b.mean(0)
    if (ac**2).sum() <= 0 or (bc**2).sum() <= 0:
        raise InputError("all cameras stand in one place: the scale is not determined")
    scale = float((ac * bc).sum() / (ac**2).sum())
    if scale <= 0:
        raise InputError("camera centres and orientations contradict each other: no similarity fits")
    return Sim3(scale, rotation, b.mean(0) - scale * rotation @ a.mean(0)).validate()

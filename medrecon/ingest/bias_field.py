# SPDX-License-Identifier: Apache-2.0
"""The slowly varying gain of a picture: receive-coil bias of MR, uneven illumination of a microscope."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import legendre

from medrecon.images import cv2

# The field is estimated on a picture of this longest side: it is smooth, details only cost time.
WORKING_PX = 48
# Total degree of the polynomial in x and y: 14 terms beside the constant.
DEGREE = 4
MAX_ITERATIONS = 30
# Steps of log intensity between working pixels that differ by less than this from the field's weigh the same: there
# rounding of the grey values rules.
FLAT = 0.002
# Fewer pixels do not tell a field from tissue.
MIN_PIXELS = 100


def estimate_bias_field(grey: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The multiplicative field of a picture, to divide by.

    The model of Zheng and Gee ("Estimation of image bias field with sparsity constraints", CVPR 2010; their exponent p
    is 1 here): log picture = log tissue + log field, where the tissue's gradient is zero nearly everywhere and large at
    edges, and the field is a polynomial. So the field's gradient is the fit of least absolute deviations to the
    gradient of the log picture, a convex problem. Unlike N3 and N4 it needs no histogram with peaks, and it takes
    milliseconds; unlike division by a blurred picture it does not dim large bright organs.

    Only the foreground counts: pixels brighter than a tenth of the 95th percentile. Elsewhere the polynomial goes on,
    held within the values that it takes there.

    Args:
        grey: uint8 or float [H, W], not negative.
        mask: bool [H, W], True = use; None uses everything.

    Returns:
        float32 [H, W], positive, geometric mean 1 over the foreground; all ones where there is nothing to fit (tiny,
        constant or black pictures).
    """
    height, width = grey.shape
    small, foreground = _shrink(grey.astype(np.float32), mask)
    if foreground.sum() < MIN_PIXELS or np.ptp(small[foreground]) == 0:
        return np.ones((height, width), np.float32)
    log = np.log(np.where(foreground, small, 1.0).astype(np.float64))
    across, down = foreground[:, 1:] & foreground[:, :-1], foreground[1:] & foreground[:-1]

    def steps(z: np.ndarray) -> np.ndarray:
        return np.concatenate([np.diff(z, axis=1)[across], np.diff(z, axis=0)[down]])

    terms = np.eye(DEGREE + 1)
    pairs = [(i, j) for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i) if i or j]
    basis = [_evaluate(np.outer(terms[i], terms[j]), *small.shape) for i, j in pairs]
    found = _least_absolute(np.stack([steps(b) for b in basis], 1), steps(log))
    coefficients = np.zeros((DEGREE + 1, DEGREE + 1))
    coefficients[tuple(np.array(pairs).T)] = found
    known = _evaluate(coefficients, *small.shape)[foreground]
    field = np.clip(_evaluate(coefficients, height, width), known.min(), known.max()) - known.mean()
    return np.exp(field).astype(np.float32)


def _shrink(grey: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The working picture float32 [h, w] and its foreground bool [h, w]; masked pixels are not mixed in."""
    height, width = grey.shape
    use = np.ones_like(grey) if mask is None else mask.astype(np.float32)
    f = min(1.0, WORKING_PX / max(height, width))
    size = max(1, round(width * f)), max(1, round(height * f))
    share = cv2.resize(use, size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(grey * use, size, interpolation=cv2.INTER_AREA) / np.maximum(share, 1e-6)
    inside = share > 0.5
    if inside.any():
        inside &= small > max(1.0, 0.1 * float(np.percentile(small[inside], 95)))
    return small, inside


def _evaluate(coefficients: np.ndarray, height: int, width: int) -> np.ndarray:
    """The Legendre series in (y, x) at the pixels' centres, the picture spanning -1..1: the same at every size."""
    y, x = ((2 * np.arange(n) + 1) / n - 1 for n in (height, width))
    return legendre.leggrid2d(y, x, coefficients)


def _least_absolute(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """x float64 [M] that makes the sum of |b - a @ x| small, by iteratively reweighted least squares."""
    weights, x = np.ones(len(b)), np.zeros(a.shape[1])
    for _ in range(MAX_ITERATIONS):
        weighted = a * weights[:, None]
        normal = weighted.T @ a
        # A foreground of few rows or columns leaves some terms undetermined; this keeps them small.
        normal += 1e-9 * np.trace(normal) * np.eye(len(x))
        fresh = np.linalg.solve(normal, weighted.T @ b)
        moved = float(np.abs(a @ (fresh - x)).max())
        x = fresh
        if moved < 1e-5:
            break
        weights = 1 / np.maximum(np.abs(b - a @ x), FLAT)
    return x

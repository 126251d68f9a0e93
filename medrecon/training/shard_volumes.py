# SPDX-License-Identifier: Apache-2.0
"""From a volume as it was published to what a shard holds: upright, cropped to the body, isotropic, one byte a voxel.

Deterministic: the same volume gives the same bytes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from medrecon.errors import InputError
from medrecon.ingest.body import AIR_HU, remove_skull, remove_table
from medrecon.ingest.volume import canonical
from medrecon.training.shard_frames import Placement
from medrecon.types import Volume

# From air, so that lungs and airways keep their walls, to cortical bone; a step is 9 HU.
CT_RANGE_HU = (-1000.0, 1300.0)
_MARGIN_MM = 4.0
_HAZE = 0.06  # of the brightest tissue of an MR: below it is noise of the air around the head
_HEAD_GRID_MM = 3.0


def prepare_ct(
    volume: Volume, spacing_mm: float, placement: Placement | None = None
) -> tuple[np.ndarray, tuple[float, float]]:
    """uint8 [X, Y, Z] of the body without table, axes right, anterior, superior; and the HU of 0 and 255.

    Args:
        volume: Hounsfield units.
        spacing_mm: of the result, isotropic.
        placement: in a frame, whose box the result then fills; None: the box around the body.

    Raises:
        InputError: no body is found.
    """
    volume = remove_table(canonical(volume))
    if placement is not None:
        return _bytes(_placed(volume, spacing_mm, AIR_HU, placement), CT_RANGE_HU), CT_RANGE_HU
    volume = _cropped(volume, volume.data > -300)
    return _bytes(_isotropic(volume, spacing_mm, AIR_HU), CT_RANGE_HU), CT_RANGE_HU


def prepare_mr(
    volume: Volume, spacing_mm: float, brain: bool = False, placement: Placement | None = None
) -> tuple[np.ndarray, tuple[float, float]]:
    """uint8 [X, Y, Z] of the head (or the brain alone) without the noise around it; and the values of 0 and 255.

    The upper one is the brightest tissue: the 99.5th percentile of the voxels above zero.

    Args:
        volume: T1-weighted.
        spacing_mm: of the result, isotropic.
        brain: take the skull away by morphology.
        placement: as of ``prepare_ct``.

    Raises:
        InputError: nothing is found.
    """
    volume = canonical(volume)
    volume = replace(volume, data=np.maximum(volume.data, 0))  # below zero is ringing of an earlier resampling
    if brain:
        volume = remove_skull(volume)
    inside = volume.data[::2, ::2, ::2]
    if not (inside > 0).any():
        raise InputError("no voxel of this volume is above zero", "it is not an MR, or it is empty")
    brightest = float(np.percentile(inside[inside > 0], 99.5))
    head = _head(volume, _HAZE * brightest)
    volume = replace(volume, data=np.where(head, volume.data, 0))
    if placement is not None:
        return _bytes(_placed(volume, spacing_mm, 0.0, placement), (0.0, brightest)), (0.0, brightest)
    volume = _cropped(volume, head & (volume.data > _HAZE * brightest))
    return _bytes(_isotropic(volume, spacing_mm, 0.0), (0.0, brightest)), (0.0, brightest)


def _head(volume: Volume, threshold: float) -> np.ndarray:
    """bool [I, J, K]: the largest smooth body above the threshold, its holes filled, and a rim around it."""
    spacing = np.array(volume.spacing_mm)
    smooth = ndimage.gaussian_filter(volume.data.astype(np.float32), np.minimum(_HEAD_GRID_MM / 2 / spacing, 4.0))
    step = np.maximum(1, np.round(_HEAD_GRID_MM / spacing)).astype(int)
    coarse = smooth[:: step[0], :: step[1], :: step[2]] > threshold
    labels, n = ndimage.label(ndimage.binary_opening(coarse) if min(coarse.shape) > 8 else coarse)
    if n == 0:
        raise InputError("no head or brain is found in this volume", "is it an MR?")
    largest = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    closed = ndimage.binary_closing(np.pad(largest, 4), iterations=3)[4:-4, 4:-4, 4:-4] | largest
    for axis in range(3):  # slice by slice: nostrils and ears open a hole in space, hardly ever one in a slice
        closed = np.stack([ndimage.binary_fill_holes(s) for s in np.moveaxis(closed, axis, 0)])
        closed = np.moveaxis(closed, 0, axis)
    rim = ndimage.binary_dilation(closed)
    at = np.ix_(*(np.minimum(np.arange(n) // s, m - 1) for n, s, m in zip(volume.data.shape, step, rim.shape)))
    return rim[at]


def _cropped(volume: Volume, keep: np.ndarray) -> Volume:
    """The box around ``keep`` and a margin."""
    box = []
    for axis in range(3):
        margin = int(np.ceil(_MARGIN_MM / volume.spacing_mm[axis]))
        along = np.flatnonzero(keep.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(along[0]) - margin), int(along[-1]) + margin + 1))
    return replace(volume, data=volume.data[tuple(box)])


def _isotropic(volume: Volume, spacing_mm: float, outside: float) -> np.ndarray:
    """float32: smoothed against aliasing where the result is coarser, cubic splines between the voxels."""
    factor = spacing_mm / np.array(volume.spacing_mm)
    data = _smoothed(volume, factor)
    if np.allclose(factor, 1, atol=0.01):
        return data
    shape = np.maximum(2, np.floor((np.array(data.shape) - 1) / factor).astype(int) + 1)
    matrix = np.diag(factor)  # a vector would mean the same, but older releases of SciPy warn of it
    return ndimage.affine_transform(data, matrix, output_shape=tuple(shape), order=3, mode="constant", cval=outside)


def _placed(volume: Volume, spacing_mm: float, outside: float, placement: Placement) -> np.ndarray:
    """float32: the box of a frame, like ``_isotropic``."""
    low, high = np.array(placement.low_mm), np.array(placement.high_mm)
    ijk_from_frame = np.linalg.inv(volume.ras_from_ijk_mm) @ placement.scan_from_frame_mm()
    matrix, offset = ijk_from_frame[:3, :3] * spacing_mm, ijk_from_frame[:3, :3] @ low + ijk_from_frame[:3, 3]
    shape = np.floor((high - low) / spacing_mm + 1e-6).astype(int) + 1
    return ndimage.affine_transform(
        _smoothed(volume, spacing_mm / np.array(volume.spacing_mm)), matrix, offset, output_shape=tuple(shape), order=3,
        mode="constant", cval=outside,
    )  # fmt: skip


def _smoothed(volume: Volume, factor: np.ndarray) -> np.ndarray:
    """float32: what is going to be sampled ``factor`` times as coarsely along each axis."""
    # A Gaussian of half the new step less half the old one: what a voxel of the new size would have seen, about.
    sigma = 0.5 * np.sqrt(np.maximum(factor**2 - 1, 0))
    data = volume.data.astype(np.float32)
    return ndimage.gaussian_filter(data, sigma) if sigma.any() else data


def _bytes(data: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    low, high = value_range
    return np.clip(np.round((data - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)

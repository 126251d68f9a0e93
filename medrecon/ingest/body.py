# SPDX-License-Identifier: Apache-2.0
"""What belongs to the patient: takes tabletop, clothes and air away from a CT, the skull from an MR."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from medrecon.errors import InputError
from medrecon.types import Volume

AIR_HU = -1000
_GRID_MM = 2.5  # masks are found on a coarse grid: fast, and finer than anything that is to be told apart


def body_mask(volume: Volume, tissue_hu: float = -300.0, opening_mm: float = 6.0, margin_mm: float = 2.0) -> np.ndarray:
    """bool [I, J, K]: the largest connected body in a CT, with lungs and bowel, without the table.

    The table touches the skin, so the threshold mask is opened by ``opening_mm`` to cut the contact, the largest
    component is kept, grown back by the same amount inside the threshold mask, and its holes are filled slice by slice.
    """
    small, step = _coarse(volume)
    spacing = np.array(volume.spacing_mm) * step
    tissue = small > tissue_hu
    core = _largest(_distance(tissue, spacing) > opening_mm / 2)
    if core is None:
        raise InputError("no body is found in this volume", "leave out crop: body; it is for CT in Hounsfield units")
    body = tissue & (_distance(~core, spacing) <= opening_mm / 2 + 0.5 * spacing.max())
    axis = int(np.argmax(np.abs(volume.ras_from_ijk_mm[2, :3]) / volume.spacing_mm))  # the one nearest to superior
    body = np.stack([ndimage.binary_fill_holes(s) for s in np.moveaxis(body, axis, 0)])
    body = np.moveaxis(body, 0, axis)
    return _fine(_distance(~body, spacing) <= margin_mm, volume.data.shape, step)


def remove_table(volume: Volume) -> Volume:
    """The same CT with everything outside the body set to air."""
    data = np.where(body_mask(volume), volume.data, np.asarray(AIR_HU, volume.data.dtype))
    return replace(volume, data=data, notes=(*volume.notes, "table and surroundings removed"))


def remove_skull(volume: Volume) -> Volume:
    """The same T1-weighted MR with everything outside the brain set to its darkest value."""
    positive = volume.data[::2, ::2, ::2]
    bright = float(np.percentile(positive[positive > 0], 99.5)) if (positive > 0).any() else 1.0
    mask = brain_mask(volume, 0.3 * bright, 1.1 * bright)
    data = np.where(mask, volume.data, volume.data.min())
    return replace(volume, data=data, notes=(*volume.notes, "skull removed by morphology"))


def brain_mask(volume: Volume, low: float, high: float, opening_mm: float = 8.0) -> np.ndarray:
    """bool [I, J, K]: the brain in a T1-weighted MR: the largest body between two grey values once thin bridges
    (meninges, optic nerves) are opened. Morphology only: good enough to look at, not a segmentation to measure.
    """
    small, step = _coarse(volume)
    spacing = np.array(volume.spacing_mm) * step
    tissue = (small > low) & (small < high)
    core = _largest(_distance(tissue, spacing) > opening_mm / 2)
    if core is None:
        raise InputError("no brain is found in this volume", "leave out crop: brain, or give a skull-stripped volume")
    brain = _distance(~core, spacing) <= opening_mm / 2 + 0.5 * spacing.max()
    brain = ndimage.binary_fill_holes(brain)
    return _fine(brain, volume.data.shape, step)


def _coarse(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Every n-th voxel along each axis, and n per axis (int [3])."""
    step = np.maximum(1, np.floor(_GRID_MM / np.array(volume.spacing_mm) + 0.25)).astype(int)
    return volume.data[:: step[0], :: step[1], :: step[2]], step


def _fine(mask: np.ndarray, shape: tuple[int, ...], step: np.ndarray) -> np.ndarray:
    for axis in range(3):
        if step[axis] > 1:
            nearest = np.minimum((np.arange(shape[axis]) + step[axis] // 2) // step[axis], mask.shape[axis] - 1)
            mask = np.take(mask, nearest, axis)
    return mask


def _distance(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Millimetres to the nearest voxel outside the mask; all infinite when there is none."""
    if mask.all():
        return np.full(mask.shape, np.inf, np.float32)
    return ndimage.distance_transform_edt(mask, sampling=spacing).astype(np.float32)


def _largest(mask: np.ndarray) -> np.ndarray | None:
    labels, n = ndimage.label(mask)
    if n == 0:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()

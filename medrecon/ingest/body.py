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


def body_mask(
    volume: Volume, tissue_hu: float = -300.0, opening_mm: float = 6.0, margin_mm: float = 10.0
) -> np.ndarray:
    """bool [I, J, K]: the largest connected body in a CT with its lungs, bowel and skin, without the table.

    The table touches the skin, so the threshold mask is opened by ``opening_mm`` to cut the contact, the largest
    component is kept, grown back by the same amount inside the threshold mask, and its holes are filled slice by slice.
    The mask then takes in ``margin_mm`` of air, so that the skin keeps its soft edge, but nothing that lies nearer to
    the table than to the body.
    """
    small, step = _coarse(volume)
    spacing = np.array(volume.spacing_mm) * step
    tissue = small > tissue_hu
    depth = max(opening_mm / 2, 1.1 * float(spacing.max()))  # one voxel of table must go, however coarse the grid
    core = _largest(_distance(tissue, spacing) > depth)
    if core is None:
        raise InputError("no body is found in this volume", "leave out crop: body; it is for CT in Hounsfield units")
    body = tissue & (_distance(~core, spacing) <= depth + 0.5 * spacing.max())
    axis = int(np.argmax(np.abs(volume.ras_from_ijk_mm[2, :3]) / volume.spacing_mm))  # the one nearest to superior
    body = np.stack([ndimage.binary_fill_holes(s) for s in np.moveaxis(body, axis, 0)])
    body = np.moveaxis(body, 0, axis)
    to_body, to_table = _distance(~body, spacing), _distance(~(tissue & ~body), spacing)
    return _fine(np.minimum(margin_mm - to_body, to_table - to_body), volume.data.shape, step) > 0


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
    inside = np.minimum(_distance(brain, spacing), 5.0) - np.minimum(_distance(~brain, spacing), 5.0)
    return _fine(inside, volume.data.shape, step) > 0


def _coarse(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Every n-th voxel along each axis, and n per axis (int [3])."""
    step = np.maximum(1, np.floor(_GRID_MM / np.array(volume.spacing_mm) + 0.25)).astype(int)
    return volume.data[:: step[0], :: step[1], :: step[2]], step


def _fine(field: np.ndarray, shape: tuple[int, ...], step: np.ndarray) -> np.ndarray:
    """float32 [I, J, K]: a field on the coarse grid, interpolated linearly, so that its zeros make no stairs."""
    field = field.astype(np.float32)
    for axis in range(3):
        if step[axis] > 1:
            at = np.minimum(np.arange(shape[axis]) / step[axis], field.shape[axis] - 1)
            before = np.minimum(at.astype(int), max(field.shape[axis] - 2, 0))
            part = (at - before).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            after = np.minimum(before + 1, field.shape[axis] - 1)
            field = np.take(field, before, axis) * (1 - part) + np.take(field, after, axis) * part
    return field


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

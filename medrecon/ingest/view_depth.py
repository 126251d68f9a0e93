# SPDX-License-Identifier: Apache-2.0
"""True depth of a volume rendering: where each pixel's ray has lost half of its light."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import ndimage

from medrecon.ingest.transfer_functions import TransferFunction
from medrecon.ingest.volume import canonical
from medrecon.types import Camera, Rigid3, Volume

_EMPTY = 1e-3  # opacity per mm below which a cell counts as empty
_BLOCK_MM = 2.5


class DepthTracer:
    """Marches rays through a volume with trilinear interpolation, skipping what is empty.

    Opacity accumulates as in the renderer: a sample of opacity a per mm hides 1 - (1 - a)^step of what lies behind it.
    Empty space is crossed by sphere tracing on a distance transform, so the cost follows the surface, not the volume.

    Args:
        volume: any orientation.
        transfer: in the volume's own values.
        step_mm: distance between samples; None: half the smallest spacing, as in the renderer.
    """

    def __init__(self, volume: Volume, transfer: TransferFunction, step_mm: float | None = None):
        volume = canonical(volume)
        self._transfer = transfer
        self._step = step_mm or min(volume.spacing_mm) / 2
        self._data = np.ascontiguousarray(volume.data, np.float32)
        self._ijk_from_ras = np.linalg.inv(volume.ras_from_ijk_mm)
        self._last = np.array(volume.data.shape, np.float64) - 1
        spacing = np.array(volume.spacing_mm)
        # Distances on blocks of cells of about _BLOCK_MM: coarse enough to be fast, fine enough to follow the surface.
        self._block = np.maximum(1, np.round(_BLOCK_MM / spacing)).astype(np.int64)
        self._per_block = (1 / self._block).astype(np.float32)[:, None]
        visible = _any_in_blocks(_visible_cells(self._data, transfer), self._block)
        size = spacing * self._block
        # From any point of a block to any point of the nearest visible one is at least the distance of their centres
        # less one block's diagonal. (In a sheared grid distances along the axes are too long by the shear's factor.)
        directions = volume.ras_from_ijk_mm[:3, :3] / spacing
        shrink = float(np.linalg.svd(directions, compute_uv=False).min())
        gap = ndimage.distance_transform_edt(~visible, sampling=size) if visible.any() else np.full(visible.shape, 1e9)
        skip = gap * shrink - np.linalg.norm(size)
        self._skip = np.where(visible, -1.0, np.maximum(skip, 0.0)).astype(np.float32)  # -1: look here

    def depth(self, camera: Camera, cam_from_world_mm: Rigid3, opacity: float = 0.5) -> np.ndarray:
        """float32 [H, W]: z-depth in mm at which the ray through each pixel's centre has become ``opacity`` opaque.

        0 where it never does.
        """
        h, w = camera.height_px, camera.width_px
        x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
        rays = camera.unproject(np.stack([x, y], -1)).reshape(-1, 3)  # z = 1: t is z-depth
        world_from_cam = cam_from_world_mm.inverse()
        turn = self._ijk_from_ras[:3, :3]
        origin = turn @ world_from_cam.translation + self._ijk_from_ras[:3, 3]
        direction = (rays @ world_from_cam.rotation.T) @ turn.T
        length = np.linalg.norm(rays, axis=1)  # mm of ray per mm of depth
        # Rays do not depend on each other and numpy lets go of the interpreter: one thread per core, the same result.
        parts = np.array_split(np.arange(len(rays)), max(1, min(os.cpu_count() or 1, 8, h)))
        with ThreadPoolExecutor(len(parts)) as pool:
            found = pool.map(lambda part: self._march(origin, direction[part], length[part], opacity), parts)
            return np.concatenate(list(found)).reshape(h, w)

    def _march(self, origin: np.ndarray, direction: np.ndarray, length: np.ndarray, opacity: float) -> np.ndarray:
        """float32 [N]. Every array below has one entry per ray that is still under way."""
        near, far = _clip(origin, direction, self._last)
        depth = np.zeros(len(direction), np.float32)
        ray = np.flatnonzero(far > near)
        t, far, step = near[ray], far[ray], self._step / length[ray]
        d, per_mm = np.ascontiguousarray(direction[ray].T, np.float32), (1 / length[ray]).astype(np.float32)
        light = np.ones(len(ray))  # that is left
        origin, last = origin.astype(np.float32)[:, None], self._last.astype(np.float32)[:, None]
        while ray.size:
            point = np.clip(origin + t.astype(np.float32) * d, 0, last)
            cell = (point * self._per_block).astype(np.int32)
            jump = self._skip[cell[0], cell[1], cell[2]]
            look = np.flatnonzero(jump < 0)
            # Samples lie in the middle of their step.
            middle = point[:, look] + (step[look] / 2).astype(np.float32) * d[:, look]
            values = ndimage.map_coordinates(self._data, middle, order=1, mode="nearest", prefilter=False)
            alpha = np.minimum(self._transfer.alpha(values), 0.9999)
            before = light[look]
            after = before * (1 - alpha) ** self._step
            light[look] = after
            hit = (after <= 1 - opacity) & (t[look] < far[look])
            # Within the step the light falls exponentially.
            part = np.log(before[hit] / (1 - opacity)) / np.log(before[hit] / after[hit])
            found = look[hit]
            depth[ray[found]] = t[found] + part * step[found]
            move = np.maximum(jump * per_mm, self._leave_block(point, d, cell))
            t = t + np.where(jump < 0, step, move)
            t[found] = np.inf
            keep = t < far
            if keep.sum() < 0.8 * keep.size:
                ray, t, far, step, light = ray[keep], t[keep], far[keep], step[keep], light[keep]
                d, per_mm = d[:, keep], per_mm[keep]
            else:
                t[~keep] = far[~keep]  # waits there until there are enough to sweep out
        return depth

    def _leave_block(self, point: np.ndarray, direction: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """float32 [N]: parameter by which each ray has just left the block of cells it is in."""
        wall = (cell + (direction > 0)) * self._block[:, None].astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (wall - point) / direction
        return np.fmax(np.fmin(np.fmin(t[0], t[1]), t[2]), 0.0) + np.float32(1e-3)


def _clip(origin: np.ndarray, direction: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entry and exit parameter of each ray in the box [0, last], not before the camera."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (0 - origin) / direction, (last - origin) / direction
    parallel = direction == 0
    outside = (origin < 0) | (origin > last)
    a = np.where(parallel, np.where(outside, np.inf, -np.inf), a)
    b = np.where(parallel, np.inf, b)
    near, far = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
    return np.maximum(near, 0.0), far


def _any_in_blocks(mask: np.ndarray, block: np.ndarray) -> np.ndarray:
    """bool, one per block of ``block`` cells (the last ones may be smaller): any cell of it is True."""
    for axis in range(3):
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], block[axis]), axis)
    return mask


def _visible_cells(data: np.ndarray, transfer: TransferFunction) -> np.ndarray:
    """bool [I, J, K]: cell (i..i+1, ...) can hold a value that is not transparent."""
    low, high = data, data
    for axis in range(3):
        follow = np.take(low, np.minimum(np.arange(low.shape[axis]) + 1, low.shape[axis] - 1), axis)
        low = np.minimum(low, follow)
        follow = np.take(high, np.minimum(np.arange(high.shape[axis]) + 1, high.shape[axis] - 1), axis)
        high = np.maximum(high, follow)
    lo, hi = float(data.min()), float(data.max())
    n = 4096
    width = max(hi - lo, 1e-6) / n
    opaque = transfer.alpha(lo + width * (np.arange(n + 1) + 0.5)) > _EMPTY
    count = np.concatenate([[0], np.cumsum(opaque)])
    first = np.clip(((low - lo) / width).astype(np.int32) - 1, 0, n)
    end = np.clip(((high - lo) / width).astype(np.int32) + 2, 0, n + 1)
    return count[end] > count[first]

# SPDX-License-Identifier: Apache-2.0
"""Centre-line of a hollow organ in a CT: the airway without being told anything, a vessel between two points."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.graph import MCP_Geometric

from medrecon.errors import ConfigError, InputError
from medrecon.ingest.volume import canonical
from medrecon.types import Volume

AIRWAY_BELOW_HU = (-900, -920, -940, -960)  # lumen; lung tissue lies above, in sick lungs not far above
AIRWAY_MAX_ML = 150.0  # more means that the threshold leaked into the lung
VESSEL_ABOVE_HU = 140  # blood with contrast agent
_GRID_MM = 1.4


def centre_line(
    volume: Volume,
    through: str,
    start_mm: tuple[float, float, float] | None = None,
    end_mm: tuple[float, float, float] | None = None,
    spacing_mm: float = 5.0,
    least_radius_mm: float = 2.5,
) -> np.ndarray:
    """Points (right, anterior, superior) in mm along the middle of a lumen, from start to end.

    The path is the cheapest one between its ends when a step costs 1 / (distance to the wall)^2, so that it keeps to
    the middle.

    Args:
        volume: CT in Hounsfield units.
        through: "airway" (air; start and end are found) or "vessel" (contrast-filled; both ends must be given).
        start_mm, end_mm: ends; moved to the middle of the lumen nearest to them.
        spacing_mm: distance between the points returned, roughly.
        least_radius_mm: airways are followed to the farthest place that is at least so wide.

    Raises:
        ConfigError: a vessel without both ends.  InputError: no such lumen, or the ends are not connected.
    """
    if through == "vessel" and (start_mm is None or end_mm is None):
        raise ConfigError("following a vessel needs start_mm and end_mm", "read them off any viewer, in RAS mm")
    volume = canonical(volume)
    step = np.maximum(1, np.round(_GRID_MM / np.array(volume.spacing_mm))).astype(int)
    data = volume.data[:: step[0], :: step[1], :: step[2]]
    spacing = np.array(volume.spacing_mm) * step
    place = volume.ras_from_ijk_mm @ np.diag([*step, 1.0])
    lumen = data < AIRWAY_BELOW_HU[0] if through == "airway" else data > VESSEL_ABOVE_HU
    start = None if start_mm is None else _nearest(lumen, place, start_mm)
    if through == "airway":
        lumen = _airway(data, spacing, start)
        start = None if start is None else _nearest(lumen, place, start_mm)
    radius = ndimage.distance_transform_edt(lumen, sampling=spacing)
    if start is None:
        start = _highest_middle(radius)
    cost = np.where(lumen, 1.0 / np.maximum(radius, 0.3) ** 2, -1)
    walker = MCP_Geometric(cost, sampling=tuple(spacing))
    reached, _ = walker.find_costs([tuple(start)])
    if end_mm is not None:
        end = _nearest(lumen, place, end_mm)
    else:
        end = _farthest(radius, reached, spacing, least_radius_mm)
    if not np.isfinite(reached[tuple(end)]):
        raise InputError(
            f"the {through} is not connected between the two ends", "move them, or give points_mm along the path"
        )
    path = np.array(walker.traceback(tuple(end)), np.float64)
    return _smooth(path @ place[:3, :3].T + place[:3, 3], spacing_mm)


def _nearest(lumen: np.ndarray, place: np.ndarray, point_mm: tuple[float, float, float]) -> np.ndarray:
    """Index of the lumen voxel nearest to the point, within 10 mm."""
    voxels = np.argwhere(lumen)
    if len(voxels):
        away = np.linalg.norm(voxels @ place[:3, :3].T + place[:3, 3] - np.array(point_mm), axis=1)
        if away.min() < 10:
            return voxels[away.argmin()]
    raise InputError(
        f"there is no lumen within 10 mm of {tuple(point_mm)}", "points are right, anterior, superior in mm"
    )


def _airway(data: np.ndarray, spacing: np.ndarray, start: np.ndarray | None) -> np.ndarray:
    """bool: the connected air of trachea and bronchi, at the highest threshold that does not leak into the lung."""
    for below in AIRWAY_BELOW_HU:
        air = data < below
        seed = _trachea(air, spacing) if start is None else tuple(start)
        if not air[seed]:
            continue
        labels, _ = ndimage.label(air)
        lumen = labels == labels[seed]
        if lumen.sum() * spacing.prod() / 1000 <= AIRWAY_MAX_ML:
            return lumen
    raise InputError(
        "the airway cannot be told from the lung in this volume", "give points_mm along the path, read off any viewer"
    )


def _trachea(air: np.ndarray, spacing: np.ndarray) -> tuple[int, int, int]:
    """Index of the middle of the trachea: the roundest, widest air in the upper part that does not reach the rim."""
    pixel_mm2 = spacing[0] * spacing[1]
    best, seed = 0.0, None
    top = air.shape[2] - 1
    for k in range(top, int(0.6 * top), -1):
        labels, n = ndimage.label(air[:, :, k])
        if n == 0:
            continue
        rim = set(np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])))
        for number, box in enumerate(ndimage.find_objects(labels), 1):
            if number in rim:
                continue
            region = labels[box] == number
            area = region.sum() * pixel_mm2
            if not 60 <= area <= 600:
                continue
            sides = np.array(region.shape) * spacing[:2]
            round_ = area / (np.pi / 4 * sides.max() ** 2)  # 1 for a disc
            inner = ndimage.distance_transform_edt(np.pad(region, 1), sampling=spacing[:2])
            score = round_ * inner.max()
            if score > best:
                at = np.unravel_index(inner.argmax(), inner.shape)
                best, seed = score, (box[0].start + at[0] - 1, box[1].start + at[1] - 1, k)
        if best > 3.5:  # a round lumen of more than 4 mm radius: take the highest such slice
            return seed
    if seed is None:
        raise InputError(
            "no trachea is found in the upper part of this volume",
            "give start_mm and end_mm, or points_mm; airways need a chest CT in Hounsfield units",
        )
    return seed


def _highest_middle(radius: np.ndarray) -> np.ndarray:
    k = int(np.flatnonzero(radius.max((0, 1)) > 0)[-1])
    return np.array([*np.unravel_index(radius[:, :, k].argmax(), radius.shape[:2]), k])


def _farthest(radius: np.ndarray, reached: np.ndarray, spacing: np.ndarray, least: float) -> np.ndarray:
    """The reachable place farthest along wide lumen."""
    middle = radius >= 0.9 * ndimage.maximum_filter(radius, 5)  # not a corner at the end of the lumen
    wide = middle & (radius >= least) & np.isfinite(reached)
    if not wide.any():
        raise InputError("the airway is narrower than can be flown through", "give points_mm along the path")
    return np.array(np.unravel_index(np.where(wide, reached, -1).argmax(), radius.shape))


def _smooth(points: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Voxel steps out, ends kept, then thinned to about ``spacing_mm``."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    n = max(int(np.ceil(length[-1])), 2)
    even = np.stack([np.interp(np.linspace(0, length[-1], n), length, points[:, a]) for a in range(3)], -1)
    soft = ndimage.gaussian_filter1d(even, spacing_mm, axis=0, mode="nearest")
    soft[0], soft[-1] = even[0], even[-1]
    keep = np.unique(np.round(np.linspace(0, n - 1, max(int(length[-1] / spacing_mm) + 1, 2))).astype(int))
    return soft[keep]

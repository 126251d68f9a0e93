# SPDX-License-Identifier: Apache-2.0
"""NRRD files with attached (.nrrd) or detached (.nhdr) headers."""

from __future__ import annotations

from pathlib import Path

import nrrd
import numpy as np

from medrecon.errors import InputError
from medrecon.ingest.volume import check_size, compact
from medrecon.types import Volume

# How each world space of the format reads in patient RAS.
_RAS_FROM_SPACE = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
_MM_PER_UNIT = {"mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "m": 1000.0, "cm": 10.0, "um": 0.001, "": 1.0}
_SCALAR_TYPES = "iuf"


def load_nrrd(path: Path, frame: int | None = None, assume_ras: bool = False) -> Volume:
    """Voxels and ``space directions``/``space origin`` as RAS millimetres.

    Raises:
        InputError: see ``medrecon.ingest.volume.load_volume``.
    """
    try:
        header = nrrd.read_header(str(path))
        axes = _spatial_axes(path, header)
        shape = tuple(int(n) for n in header["sizes"])
        check_size(path, tuple(shape[a] for a in axes), 8)
        affine, notes = _affine(path, header, axes, assume_ras)
        data, _ = nrrd.read(str(path), index_order="F")
    except InputError:
        raise
    except MemoryError as e:
        raise InputError(f"{path} does not fit into memory", "crop or resample the volume") from e
    except Exception as e:  # pynrrd passes on whatever its decoders raise
        raise InputError(
            f"{path} is not an NRRD file that can be read: {e}",
            "it may be cut short, or its detached data file is missing; copy or convert it again",
        ) from e
    if data.dtype.kind not in _SCALAR_TYPES:
        raise InputError(f"{path} holds voxels of type {data.dtype}, not one number each", "save a scalar volume")
    others = [a for a in range(data.ndim) if a not in axes]
    frames = int(np.prod([shape[a] for a in others])) if others else 1
    if frames > 1:
        if frame is None or not 0 <= frame < frames:
            raise InputError(f"{path} holds {frames} volumes", f"choose one of them with frame: 0 to {frames - 1}")
        notes.append(f"frame {frame} of {frames}")
    data = np.moveaxis(data, axes, (0, 1, 2)).reshape(*(shape[a] for a in axes), frames, order="F")
    return Volume(compact(data[..., frame or 0]), affine, "", tuple(notes))


def _spatial_axes(path: Path, header: dict) -> list[int]:
    """Indices of the three axes that lie in space; the others are colours or time."""
    kinds = [str(k).lower() for k in header.get("kinds", [])]
    if any(k in ("rgb-color", "rgba-color", "vector", "3-vector", "3-color", "4-color", "3-gradient") for k in kinds):
        raise InputError(f"{path} holds colours or vectors, not one number per voxel", "save a scalar volume")
    directions = header.get("space directions")
    if directions is not None:
        rows = [np.full(3, np.nan) if r is None else np.asarray(r, np.float64) for r in directions]
        axes = [i for i, r in enumerate(rows) if np.isfinite(r).all()]
    else:
        axes = [i for i in range(int(header["dimension"])) if i >= len(kinds) or kinds[i] not in ("list", "time")]
    if len(axes) != 3:
        raise InputError(f"{path} has {len(axes)} spatial axes; a volume has three", "save a three-dimensional volume")
    return axes


def _affine(path: Path, header: dict, axes: list[int], assume_ras: bool) -> tuple[np.ndarray, list[str]]:
    affine, notes = np.eye(4), []
    space = str(header.get("space", "")).lower().replace("-time", "")
    directions = header.get("space directions")
    if directions is not None and space in _RAS_FROM_SPACE:
        affine[:3, :3] = np.array([np.asarray(directions[a], np.float64) for a in axes]).T
        affine[:3, 3] = np.asarray(header.get("space origin", np.zeros(3)), np.float64)
        signs = np.array(_RAS_FROM_SPACE[space], np.float64)
        affine[:3] *= signs[:, None]
        units = {str(u).strip().lower() for u in header.get("space units", [])} or {""}
        if len(units) != 1 or not units <= set(_MM_PER_UNIT):
            raise InputError(f"{path}: lengths in {', '.join(sorted(units))} are not understood", "save it in mm")
        affine[:3] *= _MM_PER_UNIT[units.pop()]
        return affine, notes
    if not assume_ras:
        raise InputError(
            f"{path} does not say how it lies in the patient (no space directions, or space {space or 'missing'!r})",
            "save it with a patient space, or accept right-anterior-superior axes with assume_ras: true",
        )
    if directions is not None:
        spacing = [float(np.linalg.norm(directions[a])) for a in axes]
    elif "spacings" in header:
        spacing = [float(header["spacings"][a]) for a in axes]
    else:
        raise InputError(f"{path} gives no spacing between voxels", "save it with spacings in mm")
    affine[:3, :3] = np.diag(spacing)
    notes.append("orientation not stated; axes taken as right, anterior, superior")
    return affine, notes

# SPDX-License-Identifier: Apache-2.0
"""Readers of volumes that were published in neither NIfTI nor NRRD nor DICOM.

None of these formats says how the patient lies; the axes given here were found by looking at the pictures.
"""

from __future__ import annotations

import plistlib
import tarfile
from pathlib import Path

import numpy as np

from medrecon.errors import InputError
from medrecon.types import Volume

_REMEDY = "remove it and fetch it again: medrecon data fetch"
_DIRECTIONS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def placed(data: np.ndarray, spacing_mm: tuple[float, float, float], axes: str) -> Volume:
    """A volume whose axes point to e.g. "RAS" (right, anterior, superior)."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([_DIRECTIONS[a] for a in axes]).T * np.array(spacing_mm)
    return Volume(np.ascontiguousarray(data), affine).validate()


def read_volpack(path: Path) -> Volume:
    """VolPack's brainsmall.den: a header and 84 x 128 x 128 bytes, slowest axis first.

    It is the half of a volume of 256 x 256 x 167 voxels along every axis, of a field of view of about 250 mm.
    """
    shape = (84, 128, 128)
    raw = np.fromfile(path, np.uint8)
    if raw.size < np.prod(shape):
        raise InputError(f"{path} ends early", _REMEDY)
    data = raw[raw.size - int(np.prod(shape)) :].reshape(shape)
    return placed(data.transpose(2, 1, 0).astype(np.int16), (1.95, 1.95, 1.95), "PIR")


def read_tiff_stack(path: Path, spacing_mm: tuple[float, float, float], axes: str) -> Volume:
    """A TIFF of grey pages [Z, Y, X].

    Args:
        spacing_mm, axes: along X, Y, Z of the stack.
    """
    import tifffile

    try:
        pages = tifffile.imread(path)
    except (OSError, ValueError, tifffile.TiffFileError) as e:
        raise InputError(f"{path} cannot be read: {e}", _REMEDY) from e
    return placed(pages.transpose(2, 1, 0).astype(np.float32), spacing_mm, axes)


def read_invesalius(path: Path) -> Volume:
    """The CT of an InVesalius project (.inv3): a tar file of plists and a matrix of little-endian voxels [Z, Y, X]."""
    try:
        with tarfile.open(path, "r:*") as t:
            files = {m.name.rsplit("/", 1)[-1]: m for m in t.getmembers() if m.isfile()}
            facts = plistlib.load(t.extractfile(files["main.plist"]))
            matrix = facts["matrix"]
            raw = t.extractfile(files[matrix["filename"]]).read()
        data = np.frombuffer(raw, np.dtype(str(matrix["dtype"])).newbyteorder("<")).reshape(matrix["shape"])
        spacing = tuple(float(s) for s in facts["spacing"])
    except (OSError, EOFError, KeyError, TypeError, ValueError, tarfile.TarError, plistlib.InvalidFileException) as e:
        raise InputError(f"{path} is no InVesalius project: {type(e).__name__}: {e}", _REMEDY) from e
    return placed(data.transpose(2, 1, 0).astype(np.int16), spacing, "LAS")

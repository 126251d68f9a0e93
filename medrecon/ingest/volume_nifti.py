# SPDX-License-Identifier: Apache-2.0
"""NIfTI-1 and NIfTI-2 files, gzipped or not, whatever their suffix."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.fileholders import FileHolder

from medrecon.errors import InputError
from medrecon.ingest.volume import check_size, compact
from medrecon.types import Volume

_MM_PER_UNIT = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}


def load_nifti(path: Path, frame: int | None = None, assume_ras: bool = False) -> Volume:
    """Voxels with scl_slope and scl_inter applied; sform before qform, as the standard asks.

    Raises:
        InputError: see ``medrecon.ingest.volume.load_volume``.
    """
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if packed else raw
        try:
            image = _open(stream)
            return _convert(path, image, stream, frame, assume_ras)
        except InputError:
            raise
        except (EOFError, zlib.error, gzip.BadGzipFile) as e:
            raise InputError(f"{path} ends early or is damaged: {e}", "copy it again from where it came") from e
        except MemoryError as e:
            raise InputError(f"{path} does not fit into memory", "crop or resample the volume") from e
        except Exception as e:  # nibabel raises many kinds on headers that make no sense
            raise InputError(
                f"{path} is not a NIfTI file that can be read: {e}", "it may be cut short; copy or convert it again"
            ) from e


def _open(stream) -> nib.Nifti1Image:
    head = stream.read(8)
    stream.seek(0)
    kind = nib.Nifti2Image if head[4:6] == b"n+" else nib.Nifti1Image
    return kind.from_file_map({"header": FileHolder(fileobj=stream), "image": FileHolder(fileobj=stream)}, mmap=False)


def _convert(path: Path, image, stream, frame: int | None, assume_ras: bool) -> Volume:
    header, shape, notes = image.header, tuple(int(n) for n in image.shape), []
    if header.get_data_dtype().fields is not None or header.get_data_dtype().kind not in "iufb":
        raise InputError(
            f"{path} holds {header.get_value_label('datatype')} voxels, not one number each",
            "save the anatomical image, or one channel of it, as a scalar volume",
        )
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < 3:
        raise InputError(f"{path} is {len(shape)}-dimensional; a volume has three axes", "give the whole stack")
    if len(shape) > 4:
        raise InputError(f"{path} is {len(shape)}-dimensional", "save one three-dimensional volume of it")
    check_size(path, shape[:3], header.get_data_dtype().itemsize)
    index: tuple = (slice(None),) * 3 + (0,) * (image.ndim - 3)
    if len(shape) == 4:
        if frame is None or not 0 <= frame < shape[3]:
            raise InputError(
                f"{path} holds {shape[3]} volumes" + ("" if frame is None else f", there is no frame {frame}"),
                f"choose one of them with frame: 0 to {shape[3] - 1}",
            )
        index = (slice(None),) * 3 + (frame,) + (0,) * (image.ndim - 4)
        notes.append(f"frame {frame} of {shape[3]}")
    affine = _affine(path, image, assume_ras, notes)
    data = _scaled(image, index)
    stream.seek(0, 2) if not isinstance(stream, gzip.GzipFile) else _read_to_end(stream)
    return Volume(data, affine, "", tuple(notes))


def _read_to_end(stream: gzip.GzipFile) -> None:
    """The checksum stands at the end of a gzip file and is only looked at when the end is reached."""
    while stream.read(2**20):
        pass


def _scaled(image, index: tuple) -> np.ndarray:
    slope, inter = image.dataobj.slope, image.dataobj.inter
    raw = np.asarray(image.dataobj.get_unscaled())[index]
    if (slope, inter) == (1, 0):
        return compact(raw)
    if raw.dtype.kind in "iu" and raw.dtype.itemsize <= 4 and slope == int(slope) and inter == int(inter):
        return compact(raw.astype(np.int64) * int(slope) + int(inter))  # stays exact
    return (raw.astype(np.float64) * slope + inter).astype(np.float32)


def _affine(path: Path, image, assume_ras: bool, notes: list[str]) -> np.ndarray:
    header = image.header
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        spacing = np.array(header.get_zooms()[:3], np.float64)
        if not assume_ras:
            raise InputError(
                f"{path} does not say how it lies in the patient (neither sform nor qform)",
                "set it with the tool that made the file, or accept right-anterior-superior axes with assume_ras: true",
            )
        notes.append("orientation not stated; axes taken as right, anterior, superior")
        affine = np.diag([*spacing, 1.0])
    else:
        affine = np.array(image.affine, np.float64)
    unit = header.get_xyzt_units()[0]
    if unit == "unknown":
        notes.append("unit of length not stated; millimetres taken")
    scale = _MM_PER_UNIT[unit]
    return affine if scale == 1.0 else np.diag([scale, scale, scale, 1.0]) @ affine

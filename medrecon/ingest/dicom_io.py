# SPDX-License-Identifier: Apache-2.0
"""Reading DICOM files so that neither values nor names of files can slip into messages, warnings or logs."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels import iter_pixels

from medrecon.errors import InputError
from medrecon.ingest.natural_order import natural_key

DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
MAX_SAMPLES = 2**33  # 16 GiB at 16 bit: a header that claims more is taken for broken

# What may be shown of Modality (0008,0060). Anything else there may be free text and is shown as "".
MODALITIES = frozenset(
    "BI CR CT DX ECG ES GM IO IVOCT IVUS MG MR NM OCT OP OPM OPT OT PT PX RF RG RTDOSE RTIMAGE SC SEG SM TG US VL XA "
    "XC XRF".split()
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences pydicom and gdcm: their warnings quote element values, which may identify the patient."""
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        import gdcm

        gdcm.Trace.WarningOff()
        gdcm.Trace.ErrorOff()
        gdcm.Trace.DebugOff()
    except ImportError:  # only some compressed transfer syntaxes need it
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def list_files(path: Path) -> list[Path]:
    """The file itself, or every file below a folder (hidden ones left out), in natural order.

    Raises:
        InputError: the path does not exist or cannot be listed. Paths are never quoted: they may name a patient.
    """
    path = Path(path)
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise InputError("the input path does not exist", "check its spelling and that the drive is mounted")
        return sorted(_walk(path), key=lambda p: natural_key(p.relative_to(path)))
    except PermissionError:
        raise InputError("the input folder may not be read", "give yourself read permission on it") from None
    except OSError as e:
        raise InputError(f"the input cannot be listed: {e.strerror}", "check the path and the drive") from None


def _walk(folder: Path) -> list[Path]:
    out = []
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            out += _walk(entry)
        elif entry.is_file():
            out.append(entry)
    return out


def read_header(path: Path, where: str) -> FileDataset | None:
    """Everything before the pixels; None when the file is not DICOM.

    Args:
        where: how messages name the file without its name, such as "file 3 of 20".

    Raises:
        InputError: it is DICOM but broken, or may not be read.
    """
    return _read(path, where, stop_before_pixels=True)


def read_dataset(path: Path, where: str) -> FileDataset:
    """The whole file, pixels included.  Raises InputError."""
    ds = _read(path, where, stop_before_pixels=False)
    if ds is None:
        raise InputError(f"{where} is not DICOM", "remove it from the folder or export the series again")
    return ds


def _read(path: Path, where: str, stop_before_pixels: bool) -> FileDataset | None:
    broken = InputError(f"{where} begins as DICOM but is cut off or damaged", "export or copy it again, or remove it")
    with quiet():
        try:
            try:
                ds = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)
            except InvalidDicomError:
                return _read_without_preamble(path, stop_before_pixels)
            # Reading is lazy: a damaged header shows only when its elements are touched.
            for keyword in ("SOPClassUID", "SeriesInstanceUID", "Rows", "Columns", "NumberOfFrames"):
                ds.get(keyword)
            if len(ds) == 0 or "TransferSyntaxUID" not in ds.file_meta:
                raise broken
            return ds
        except InputError:
            raise
        except PermissionError:
            raise InputError(f"{where} may not be read", "give yourself read permission on it") from None
        except OSError as e:
            raise InputError(
                f"{where} cannot be read: {e.strerror or 'input/output error'}", "check the drive"
            ) from None
        except Exception:  # whatever a parser meets in a damaged file; its text may quote values
            raise broken from None


def _read_without_preamble(path: Path, stop_before_pixels: bool) -> FileDataset | None:
    """Old exports lack the 128-byte preamble; they are taken for DICOM only when they say what they hold."""
    with open(path, "rb") as f:
        head = f.read(8)
    if len(head) < 8 or head[:2] not in (b"\x02\x00", b"\x08\x00"):
        return None
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels, force=True)
        return ds if "SOPClassUID" in ds and "SeriesInstanceUID" in ds else None
    except Exception:
        return None


def transfer_syntax(ds: Dataset) -> str:
    """Name of the transfer syntax, which identifies nobody."""
    uid = getattr(getattr(ds, "file_meta", None), "TransferSyntaxUID", None)
    return uid.name if uid is not None and uid.is_transfer_syntax else "unknown transfer syntax"


def decode_frames(
    ds: FileDataset, where: str, raw: bool = True, indices: list[int] | None = None
) -> Iterator[np.ndarray]:
    """Stored values of each frame, [H, W] or [H, W, 3], in file order.

    Args:
        raw: leave colours in the stored space; False converts YBR to RGB.
        indices: only these frames (ascending); None takes all.

    Raises:
        InputError: no pixels, cut off, or a transfer syntax that no installed decoder reads.
    """
    if not any(k in ds for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise InputError(f"{where} holds no pixel data", "export the images themselves, not only their headers")
    rows, columns, n = int(ds.get("Rows") or 0), int(ds.get("Columns") or 0), number_of_frames(ds)
    if rows < 1 or columns < 1 or rows * columns * n * int(ds.get("SamplesPerPixel") or 1) > MAX_SAMPLES:
        raise InputError(f"{where} claims {n} frames of {columns}x{rows} px, which cannot be right", "export it again")
    frames = None
    expected = n if indices is None else len(indices)
    for count in range(expected):
        with quiet():
            try:
                frames = iter_pixels(ds, raw=raw, indices=indices) if frames is None else frames
                frame = next(frames, None)
            except Exception as e:
                raise _cannot_decode(ds, where, e) from None
        if frame is None:
            raise InputError(
                f"{where} holds {count} of the {expected} frames looked for", "it is cut off: copy or export it again"
            )
        if frame.shape[:2] != (rows, columns):
            raise InputError(
                f"{where} decodes to {frame.shape[1]}x{frame.shape[0]} px, its header says {columns}x{rows}",
                "export it again",
            )
        yield frame


def frame_group(ds: Dataset, index: int, sequence: str) -> Dataset:
    """The functional group that holds for one frame (PS3.3 C.7.6.16); the header itself in classic single images."""
    for groups, i in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        items = ds[groups].value if groups in ds else []
        if i < len(items) and sequence in items[i] and len(items[i][sequence].value):
            return items[i][sequence].value[0]
    return ds if "PerFrameFunctionalGroupsSequence" not in ds else Dataset()


def number_of_frames(ds: Dataset) -> int:
    return max(int(ds.get("NumberOfFrames") or 1), 1)


def _cannot_decode(ds: FileDataset, where: str, error: Exception) -> InputError:
    syntax = transfer_syntax(ds)
    unsupported = "not support" in str(error) or "missing dependencies" in str(error)
    if isinstance(error, (NotImplementedError, ImportError)) or unsupported:
        return InputError(
            f"{where} is compressed as {syntax}, which no installed decoder reads",
            "decompress it first (for example with `gdcmconv --raw`), or export it uncompressed",
        )
    if isinstance(error, MemoryError):
        return InputError(f"{where} does not fit in memory", "use a machine with more memory or export fewer frames")
    return InputError(
        f"{where}: the pixel data ({syntax}) are cut off or damaged", "export or copy the file again, or remove it"
    )

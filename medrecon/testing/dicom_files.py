# SPDX-License-Identifier: Apache-2.0
"""Small synthetic DICOM files for tests: known pixels, any geometry, any tags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian


def make_dicom(
    pixels: np.ndarray,
    *,
    number: int = 1,
    series: str = "1.2.3.1",
    syntax: UID = ExplicitVRLittleEndian,
    frames: list[bytes] | None = None,
    **tags,
) -> FileDataset:
    """An image with the given stored values.

    Args:
        pixels: [H, W], [H, W, 3] or, with NumberOfFrames among the tags, [N, H, W] or [N, H, W, 3]; the dtype sets bits
            and sign.
        number: instance number, also part of the SOP Instance UID.
        syntax: transfer syntax to state.
        frames: compressed frames to encapsulate instead of the raw pixels.
        tags: keywords that override what stands here; a value of None removes the element.
    """
    colour = pixels.shape[-1] == 3 and pixels.ndim >= 3
    height, width = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    ds = FileDataset(None, {}, preamble=b"\0" * 128)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian, "iso8859")
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"{series}.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", series, "1.2.3.9"
    ds.Modality, ds.InstanceNumber = "CT", number
    ds.PatientName = ds.PatientID = ""
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = height, width
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    data = (
        np.ascontiguousarray(pixels)
        .astype(pixels.dtype.newbyteorder("<" if syntax.is_little_endian else ">"))
        .tobytes()
    )
    ds.PixelData = encapsulate(frames) if frames is not None else data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 and frames is None else "OB"
    ds["PixelData"].is_undefined_length = frames is not None
    for keyword, value in tags.items():
        if value is None:
            if keyword in ds:
                del ds[keyword]
        else:
            setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CTImageStorage)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    return correct_ambiguous_vr(ds, syntax.is_little_endian)


def write_dicom(path: Path, pixels: np.ndarray, **more) -> Path:
    """``make_dicom`` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    make_dicom(pixels, **more).save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    volume: np.ndarray,
    *,
    spacing: tuple[float, float, float] = (0.5, 0.75, 2.0),
    origin: tuple[float, float, float] = (-10.0, 20.0, 30.0),
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    name: Callable[[int], str] = lambda k: f"{k:03d}.dcm",
    instance_number: Callable[[int], int] = lambda k: k + 1,
    shift: Callable[[int], np.ndarray] = lambda k: np.zeros(3),
    **tags,
) -> list[Path]:
    """A classic series of one slice per file.

    Args:
        volume: [K, J, I] stored values; slice k lies k * spacing[2] mm along the normal.
        spacing: between columns, rows and slices, mm.
        origin: LPS mm of the first voxel's centre.
        orientation: row and column direction cosines.
        name, instance_number: of slice k; shuffle them to see that geometry decides.
        shift: mm added to the position of slice k (tilt, gaps, repeats).
    """
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(row, column)
    paths = []
    for k, plane in enumerate(volume):
        position = np.array(origin) + k * spacing[2] * normal + shift(k)
        own = {
            "ImagePositionPatient": [f"{v:.6f}"[:16] for v in position],
            "ImageOrientationPatient": [f"{v:.8f}" for v in orientation],
            "PixelSpacing": [spacing[1], spacing[0]],
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
            **tags,
        }
        paths.append(write_dicom(folder / name(k), plane, number=instance_number(k), **own))
    return paths

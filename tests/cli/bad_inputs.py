# SPDX-License-Identifier: Apache-2.0
"""Makers of broken input for the table in test_cli_bad_input.py. Each takes an empty folder and returns a path."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def textured(seed: int, size: int = 96) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.integers(0, 256, (size, size, 3), np.uint8), (0, 0), 1.2)


def pictures(folder: Path, images) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        (folder / f"{i}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return folder


def black_pictures(folder):
    return pictures(folder, [np.zeros((96, 96, 3), np.uint8)] * 6)


def constant_pictures(folder):
    return pictures(folder, [np.full((96, 96, 3), 128, np.uint8)] * 6)


def unrelated_pictures(folder):
    return pictures(folder, [textured(i) for i in range(5)])


def one_picture(folder):
    return pictures(folder, [textured(0)])


def single_picture_file(folder):
    return pictures(folder, [textured(0)]) / "0.png"


def truncated_pictures(folder):
    for path in pictures(folder, [textured(i) for i in range(4)]).glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    return folder


def absurd_png(folder):
    """Headers that promise 200000 x 200000 pixels."""
    import zlib

    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    for i in range(3):
        (folder / f"{i}.png").write_bytes(data)
    return folder


def empty_folder(folder):
    return folder


def text_folder(folder):
    (folder / "notes.txt").write_text("no pictures here")
    return folder


def missing(folder):
    return folder / "gone"


def text_video(folder):
    path = folder / "clip.mp4"
    path.write_text("this is not a video\n" * 50)
    return path


def empty_video(folder):
    path = folder / "clip.mp4"
    path.write_bytes(b"")
    return path


def truncated_video(folder):
    path = folder / "whole.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 96))
    for i in range(10):
        writer.write(textured(i))
    writer.release()
    cut = folder / "clip.avi"
    cut.write_bytes(path.read_bytes()[:200])
    return cut


def unknown_file(folder):
    path = folder / "scan.xyz"
    path.write_bytes(b"\x00" * 500)
    return path


def nifti(folder: Path, data: np.ndarray, affine=None, name="v.nii.gz") -> Path:
    path = folder / name
    nibabel.save(nibabel.Nifti1Image(data, np.diag([2.0, 2, 2, 1]) if affine is None else affine), path)
    return path


def nan_volume(folder):
    data = np.zeros((16, 16, 16), np.float32)
    data[4, 4, 4] = np.nan
    return nifti(folder, data)


def empty_volume(folder):
    return nifti(folder, np.full((16, 16, 16), -1000, np.int16))


def huge_volume(folder):
    """A header that promises 30000^3 voxels."""
    path = nifti(folder, np.zeros((4, 4, 4), np.int16), name="v.nii")
    raw = bytearray(path.read_bytes())
    raw[40:56] = struct.pack("<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)
    path.write_bytes(bytes(raw))
    return path


def truncated_volume(folder):
    path = nifti(folder, np.random.default_rng(0).integers(-1000, 1000, (24, 24, 24)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:4000])
    return path


def four_dimensional_volume(folder):
    return nifti(folder, np.zeros((8, 8, 8, 3), np.int16))


def singular_volume(folder):
    path = nifti(folder, np.zeros((8, 8, 8), np.int16), name="v.nii")
    image = nibabel.load(path)
    image.set_sform(np.diag([0.0, 1, 1, 1]), 1)
    nibabel.save(image, folder / "w.nii")
    return folder / "w.nii"


def text_volume(folder):
    path = folder / "v.nii.gz"
    path.write_bytes(gzip.compress(b"hello" * 200))
    return path


def broken_nrrd(folder):
    path = folder / "v.nrrd"
    path.write_bytes(b"NRRD0004\ntype: short\ndimension: 3\nsizes: 50 50 50\nencoding: raw\n\n\x00\x01")
    return path


def ct_slice(
    uid: str, z: float, orientation=(1, 0, 0, 0, 1, 0), position=(0.0, 0.0), size=32, pixels=True
) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = uid, uid + ".1", uid + ".2"
    ds.Modality, ds.PatientName, ds.PatientID = "CT", "SECRET^NAME", "SECRET-ID"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [*position, z], list(orientation)
    ds.PixelSpacing, ds.SliceThickness, ds.InstanceNumber = [1.0, 1.0], 2.0, 1
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    if pixels:
        ds.Rows = ds.Columns = size
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.PixelData = np.random.default_rng(int(z)).integers(0, 2000, (size, size)).astype(np.uint16).tobytes()
    return ds


def series(folder: Path, slices) -> Path:
    for i, ds in enumerate(slices):
        pydicom.dcmwrite(folder / f"SECRET_{i:03d}.dcm", ds)
    return folder


UID = "1.2.826.0.1.3680043.8.498.1"


def truncated_dicom(folder):
    for path in series(folder, [ct_slice(UID, 2.0 * i) for i in range(6)]).glob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-1500])
    return folder


def mixed_series(folder):
    return series(folder, [ct_slice(UID + str(i % 2), 2.0 * i) for i in range(8)])


def tilted_gantry(folder):
    a = np.deg2rad(15)
    tilt = (1, 0, 0, 0, np.cos(a), np.sin(a))
    return series(folder, [ct_slice(UID, 2.0 * i, tilt) for i in range(6)])


def uneven_gaps(folder):
    return series(folder, [ct_slice(UID, z) for z in (0, 2, 4, 9, 11, 13)])


def duplicate_slices(folder):
    return series(folder, [ct_slice(UID, z) for z in (0, 2, 2, 4, 6)])


def no_pixel_data(folder):
    return series(folder, [ct_slice(UID, 2.0 * i, pixels=False) for i in range(4)])


def mixed_sizes(folder):
    return series(folder, [ct_slice(UID, 2.0 * i, size=32 if i < 3 else 48) for i in range(6)])

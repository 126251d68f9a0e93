# SPDX-License-Identifier: Apache-2.0
"""Compressed pixel streams carry comments of their own, outside the reach of any DICOM tag: take them out."""

from __future__ import annotations

from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames

_JPEG = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81))
_JPEG2000 = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
# JFIF, JPEG-LS colour transform (HP) and Adobe's colour transform change what the decoder does; the rest is talk.
_NEEDED = (0xE0, 0xE8, 0xEE)


def strip_comments(ds: FileDataset) -> None:
    """Remove comment and application segments (text, EXIF, thumbnails) from JPEG, JPEG-LS and JPEG 2000 frames.

    In place; the coded picture itself is not touched. Streams that cannot be parsed are left alone.
    """
    syntax = str(ds.file_meta.TransferSyntaxUID)
    strip = strip_jpeg if syntax in _JPEG else strip_jpeg2000 if syntax in _JPEG2000 else None
    if strip is None or "ExtendedOffsetTable" in ds:
        return
    try:
        frames = list(generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames") or 1)))
        cleaned = [strip(f) for f in frames]
    except Exception:  # damaged: the reader of the copy will say so, as it would of the original
        return
    if cleaned != frames:
        ds.PixelData = encapsulate(cleaned)
        ds["PixelData"].is_undefined_length = True


def strip_jpeg(data: bytes) -> bytes:
    """Without COM and the APPn segments that no decoder needs, up to the first scan (ITU-T T.81 B.1)."""
    out, at = bytearray(data[:2]), 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xDA:
            return bytes(out) + data[at:]
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if not (marker == 0xFE or (0xE0 <= marker <= 0xEF and marker not in _NEEDED)):
            out += data[at : at + 2 + length]
        at += 2 + length
    return data


def strip_jpeg2000(data: bytes) -> bytes:
    """Without COM segments in the main header (ITU-T T.800 A.9.2)."""
    start = data.find(b"\xff\x4f\xff\x51")  # SOC, SIZ: skips a JP2 wrapper, which DICOM does not allow anyway
    if start < 0:
        return data
    out, at = bytearray(data[start : start + 2]), start + 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (0x90, 0xD9):  # start of a tile part
            return bytes(out) + data[at:]
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker != 0x64:
            out += data[at : at + 2 + length]
        at += 2 + length
    return data

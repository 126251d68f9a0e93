# SPDX-License-Identifier: Apache-2.0
"""Blacking out rectangles of DICOM pixels, for text that is burned into them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import FileDataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import ExplicitVRLittleEndian

from medrecon.errors import InputError

Rectangle = tuple[int, int, int, int]  # x, y, width, height in px


def black_out(ds: FileDataset, rectangles: Sequence[Rectangle]) -> None:
    """Set the rectangles to black in every frame, in place; the pixels become uncompressed little endian.

    Raises:
        InputError: a rectangle leaves the picture, or the pixels cannot be decoded.
    """
    from medrecon.ingest.dicom_io import decode_frames, number_of_frames
    from medrecon.ingest.dicom_video import is_video

    if is_video(ds) or "PixelData" not in ds or int(ds.get("BitsAllocated") or 0) not in (8, 16, 32):
        raise InputError(
            "rectangles cannot be blacked out in this kind of pixel data", "export it uncompressed at 8 or 16 bits"
        )
    height, width = int(ds.Rows), int(ds.Columns)
    for x, y, w, h in rectangles:
        if x < 0 or y < 0 or w < 1 or h < 1 or x + w > width or y + h > height:
            raise InputError(
                f"rectangle [{x}, {y}, {w}, {h}] leaves a picture of {width}x{height} px", "give [x, y, width, height]"
            )
    colour = int(ds.get("SamplesPerPixel") or 1) == 3
    frames = np.stack(list(decode_frames(ds, "the image", raw=not colour)))
    black = 0 if colour else _black(ds)
    for x, y, w, h in rectangles:
        frames[:, y : y + h, x : x + w] = black
    kind = "i" if ds.get("PixelRepresentation") and not colour else "u"
    data = frames.astype(f"<{kind}{int(ds.BitsAllocated) // 8}").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.set_original_encoding(False, True, "iso8859")
    ds.NumberOfFrames = number_of_frames(ds)
    if ds.NumberOfFrames == 1 and "PerFrameFunctionalGroupsSequence" not in ds:
        del ds.NumberOfFrames
    if colour:
        ds.PhotometricInterpretation, ds.PlanarConfiguration = "RGB", 0
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in ds:
            del ds[keyword]
    ds.add_new(0x7FE00010, "OW" if int(ds.BitsAllocated) > 8 else "OB", data + b"\0" * (len(data) % 2))
    ds["PixelData"].is_undefined_length = False
    correct_ambiguous_vr(ds, True)  # implicit VR leaves some open, explicit VR has to say


def _black(ds: FileDataset) -> int:
    """The stored value that is shown darkest."""
    bits, signed = int(ds.get("BitsStored") or ds.BitsAllocated), bool(ds.get("PixelRepresentation"))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if ds.get("PhotometricInterpretation") == "MONOCHROME1":
        return high
    if ds.get("PhotometricInterpretation") == "PALETTE COLOR":
        entries = [
            np.frombuffer(ds[f"{c}PaletteColorLookupTableData"].value, np.uint8) for c in ("Red", "Green", "Blue")
        ]
        depth = int(ds.RedPaletteColorLookupTableDescriptor[2]) // 8
        total = sum(e[: e.size // depth * depth].view(f"<u{depth}").astype(np.int64) for e in entries)
        return int(np.argmin(total)) + int(ds.RedPaletteColorLookupTableDescriptor[1])
    return low

# SPDX-License-Identifier: Apache-2.0
"""Video inside DICOM (MPEG-2, H.264, H.265), as endoscopes store it: the bit stream goes to OpenCV's decoder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import generate_frames

from medrecon.errors import InputError
from medrecon.ingest.dicom_io import quiet

_MPEG = tuple(f"1.2.840.10008.1.2.4.{n}" for n in range(100, 109))


def is_video(ds: Dataset) -> bool:
    """The transfer syntax is one of MPEG-2, MPEG-4 AVC/H.264 or HEVC/H.265."""
    uid = str(getattr(getattr(ds, "file_meta", None), "TransferSyntaxUID", ""))
    return uid in _MPEG or uid.removesuffix(".1") in _MPEG


def decode_video(ds: FileDataset, where: str, indices: list[int]) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] RGB of the frames asked for (ascending).  Raises InputError."""
    from medrecon.ingest.video import decode

    if "PixelData" not in ds:
        raise InputError(f"{where} holds no pixel data", "export the images themselves, not only their headers")
    with quiet():
        try:
            stream = b"".join(generate_frames(ds.PixelData, number_of_frames=1))  # one stream, however it is cut
        except Exception:
            raise InputError(f"{where}: the video stream is cut off or damaged", "export or copy it again") from None
    count = 0
    # Its own folder below the system's temporary one: readable by this user only, gone however decoding ends.
    with tempfile.TemporaryDirectory(prefix="medrecon-") as folder:
        path = Path(folder) / "stream"
        path.write_bytes(stream)
        try:
            for _, _, image in decode(path, indices):
                count += 1
                yield image
        except InputError as e:
            raise InputError(f"{where}: its video stream cannot be used: {e.cause}", "export it again") from None
    if count < len(indices):
        raise InputError(
            f"{where} holds {count} of the {len(indices)} frames looked for", "its video breaks off: export it again"
        )

# SPDX-License-Identifier: Apache-2.0
"""Makes medrecon/assets/demo/chest_ct.nii.gz from the LIDC-IDRI-0001 chest CT.

    python benchmarks/make_demo_data.py PATH [--out FILE]

PATH is the series as DICOM folder or NIfTI file (`medrecon data list`). The table is removed, the volume is cropped to
the body, pixels are averaged two by two in the slice plane, values are clipped to -1000..2000 HU and rounded to 4 HU.
The file is the same, byte for byte, whether made from the DICOM series or its NIfTI twin (with one version of zlib).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from medrecon.errors import MedreconError
from medrecon.ingest.body import AIR_HU, remove_table
from medrecon.ingest.volume import canonical, load_volume
from medrecon.types import Volume
from medrecon.types.storage import write_bytes_atomic

DEFAULT = Path(__file__).resolve().parents[1] / "medrecon" / "assets" / "demo" / "chest_ct.nii.gz"
LIMIT_BYTES = 12_000_000


def reduce(volume: Volume, factor: int = 2, step_hu: int = 4) -> Volume:
    """Table removed, cropped, averaged ``factor`` x ``factor`` in the plane, rounded; world positions kept."""
    volume = crop(remove_table(canonical(volume)))
    data = volume.data[: volume.data.shape[0] // factor * factor, : volume.data.shape[1] // factor * factor]
    i, j, k = data.shape
    mean = data.reshape(i // factor, factor, j // factor, factor, k).mean((1, 3), dtype=np.float64)
    rounded = np.clip(np.round(mean / step_hu) * step_hu, AIR_HU, 2000).astype(np.int16)
    affine = volume.ras_from_ijk_mm.copy()
    middle = (factor - 1) / 2  # the new voxel's centre in old voxels
    affine[:3, 3] += affine[:3, :2].sum(1) * middle
    affine[:3, :2] *= factor
    return Volume(rounded, affine, "CT")


def crop(volume: Volume, margin: int = 2) -> Volume:
    """The smallest box around what is not air."""
    inside = volume.data > AIR_HU
    low, high = [], []
    for axis in range(3):
        used = np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis)))
        low.append(max(int(used[0]) - margin, 0))
        high.append(int(used[-1]) + 1 + margin)
    affine = volume.ras_from_ijk_mm.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array(low)
    data = volume.data[tuple(slice(a, b) for a, b in zip(low, high))]
    return replace(volume, data=data, ras_from_ijk_mm=affine)


def nifti_bytes(volume: Volume) -> bytes:
    """Gzipped NIfTI-1 without a time stamp."""
    image = nib.Nifti1Image(volume.data, volume.ras_from_ijk_mm)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"LIDC-IDRI-0001, reduced; CC BY 3.0"
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9, mtime=0, filename="") as f:
        f.write(image.to_bytes())
    return packed.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--out", type=Path, default=DEFAULT)
    options = parser.parse_args()
    try:
        volume = reduce(load_volume(options.path))
    except MedreconError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    data = nifti_bytes(volume)
    if len(data) > LIMIT_BYTES:
        print(f"{len(data)} bytes are more than the {LIMIT_BYTES} that ship", file=sys.stderr)
        return 4
    write_bytes_atomic(options.out, data)
    size = " x ".join(map(str, volume.data.shape))
    print(f"{options.out}: {size} voxels, {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

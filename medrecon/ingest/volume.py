# SPDX-License-Identifier: Apache-2.0
"""Volumes in: one entry for NIfTI, NRRD and DICOM, what is known about them, and their canonical orientation."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from medrecon.errors import InputError
from medrecon.types import Volume

MAX_VOXELS = 2**31  # indices beyond this overflow in the renderer and in most tools downstream


def load_volume(
    path: str | Path, frame: int | None = None, assume_ras: bool = False, series: int | None = None
) -> Volume:
    """Read a volume with its place in the world; recognised by content, not by suffix.

    Args:
        path: a NIfTI-1/2 file (optionally gzipped), an NRRD file (attached or detached header), or a DICOM series
            (its folder, or any file of it).
        frame: which frame of a 4-D file to take, from 0; None refuses 4-D files.
        assume_ras: accept files that do not say how they lie: axes are taken to point right, anterior, superior.
        series: which DICOM series of a folder, 1 = the one with most images; None refuses a folder with several
            (scouts do not count).

    Raises:
        InputError: missing, truncated, of another kind, too large for this machine, without orientation, not
            scalar, with NaN, or 4-D without ``frame``.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist", "give the path of a NIfTI or NRRD file or of a DICOM folder")
    if path.is_dir():
        return _load_dicom(path, series)
    head = _first_bytes(path)
    if head[:4] == b"NRRD":
        from medrecon.ingest.volume_nrrd import load_nrrd

        return load_nrrd(path, frame, assume_ras).validate()
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        from medrecon.ingest.volume_nifti import load_nifti

        return load_nifti(path, frame, assume_ras).validate()
    if head[128:132] == b"DICM" or path.suffix.lower() in (".dcm", ".ima"):
        return _load_dicom(path, series)
    raise InputError(
        f"{path} is neither NIfTI nor NRRD nor DICOM",
        "convert it to .nii.gz, or give the DICOM folder itself; ANALYZE .hdr/.img pairs carry no orientation",
    )


def _first_bytes(path: Path) -> bytes:
    """Up to 540 bytes of the file, unpacked when it is gzipped."""
    try:
        with open(path, "rb") as f:
            raw = f.read(65536)
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror or e}", "check that the file is readable") from e
    if not raw:
        raise InputError(f"{path} is empty", "copy it again from where it came")
    if raw[:2] == b"\x1f\x8b":
        try:
            return zlib.decompressobj(wbits=31).decompress(raw, 540)
        except zlib.error as e:
            raise InputError(f"{path} is a damaged gzip file: {e}", "copy it again from where it came") from e
    return raw[:540]


def _load_dicom(path: Path, series: int | None) -> Volume:
    from medrecon.ingest.dicom_series import find_series, read_volume

    found = find_series(path)
    if path.is_file() and found[0].n_images == 1:  # one slice was pointed at: its series lies beside it
        found = [s for s in find_series(path.parent) if any(i.path.samefile(path) for i in s.instances)]
    choices = "choose one with series: " + "; ".join(f"{n} = {s.label}" for n, s in enumerate(found, 1))
    if series is None:
        volumes = [n for n, s in enumerate(found, 1) if not s.localizer]
        if len(volumes) > 1:
            raise InputError(f"the folder holds {len(volumes)} DICOM series", choices)
        series = volumes[0] if volumes else 1
    if not 1 <= series <= len(found):
        raise InputError(f"there is no series {series}: {len(found)} found", choices)
    volume = read_volume(found[series - 1]).validate()
    if len(found) > 1:
        others = "; ".join(f"{n} = {s.label}" for n, s in enumerate(found, 1) if n != series)
        volume = replace(volume, notes=(*volume.notes, f"series {series} of {len(found)} taken; the others: {others}"))
    return volume


def check_size(path: Path, shape: tuple[int, ...], bytes_per_voxel: int) -> None:
    """Refuse before a single voxel is read what cannot be held in memory.

    Raises:
        InputError: no voxels, more than ``MAX_VOXELS``, or more bytes than are free.
    """
    if not shape or min(shape) < 1:
        raise InputError(
            f"{path}: the header gives the size {'x'.join(map(str, shape))}, which holds no voxels",
            "the file is damaged; copy or convert it again",
        )
    voxels = int(np.prod([int(n) for n in shape], dtype=object))
    size = "x".join(map(str, shape))
    if voxels > MAX_VOXELS:
        raise InputError(
            f"{path}: {size} voxels are more than medrecon reads ({MAX_VOXELS:,})", "crop or resample the volume"
        )
    needed, free = voxels * (bytes_per_voxel + 4), available_memory()
    if needed > free:
        raise InputError(
            f"{path}: {size} voxels need {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free",
            "crop or resample the volume, or use a machine with more memory",
        )


def available_memory() -> int:
    """Bytes that can be allocated without swapping (an upper bound where the system does not say)."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**63


def compact(data: np.ndarray) -> np.ndarray:
    """int16 when that loses nothing and the values were integers anyway, else float32."""
    if data.dtype == np.int16:
        return data
    if data.dtype.kind in "iu" and data.size and data.min() >= -32768 and data.max() <= 32767:
        return data.astype(np.int16)
    return data.astype(np.float32)


def canonical(volume: Volume) -> Volume:
    """The same voxels with axes reordered and flipped so that i, j, k point most nearly right, anterior, superior.

    No resampling: every voxel keeps its value and its place in millimetres. The affine becomes right-handed.
    """
    from nibabel import orientations

    affine = volume.ras_from_ijk_mm
    turn = orientations.io_orientation(affine)
    data = orientations.apply_orientation(volume.data, turn)
    return replace(
        volume,
        data=np.asfortranarray(data),  # i runs fastest: what VTK and NIfTI both want
        ras_from_ijk_mm=affine @ orientations.inv_ornt_aff(turn, volume.data.shape),
    )


def with_border(volume: Volume, value: float) -> Volume:
    """The volume with one more voxel of ``value`` on every side: what its border cuts gets a closed surface."""
    affine = volume.ras_from_ijk_mm.copy()
    affine[:3, 3] -= affine[:3, :3].sum(1)
    return replace(volume, data=np.pad(volume.data, 1, constant_values=value), ras_from_ijk_mm=affine)


def describe(volume: Volume) -> list[tuple[str, str]]:
    """(label, text) rows for the user: size, spacing, orientation, extent, values. No identifiers."""
    from nibabel import orientations

    affine, shape = volume.ras_from_ijk_mm, np.array(volume.data.shape)
    names = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}
    codes = orientations.aff2axcodes(affine)
    centre = affine[:3, :3] @ ((shape - 1) / 2) + affine[:3, 3]
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    shear = np.abs(directions.T @ directions - np.eye(3)).max()
    lo, mid, hi = (float(x) for x in np.percentile(volume.data[::2, ::2, ::2], (1, 50, 99)))
    rows = [
        ("size", " x ".join(map(str, volume.data.shape)) + " voxels"),
        ("spacing", " x ".join(f"{s:.4g}" for s in volume.spacing_mm) + " mm"),
        ("extent", " x ".join(f"{s * n:.1f}" for s, n in zip(volume.spacing_mm, volume.data.shape)) + " mm"),
        ("axes point to", ", ".join(names[c] for c in codes) + f" ({''.join(codes)})"),
        ("handedness", "right-handed" if np.linalg.det(affine[:3, :3]) > 0 else "left-handed"),
        ("centre", "R {:.1f}, A {:.1f}, S {:.1f} mm".format(*centre)),
        ("modality", volume.modality or "not stated"),
        ("voxel type", str(volume.data.dtype)),
        ("values", f"{float(volume.data.min()):g} to {float(volume.data.max()):g}"),
        ("1 %, median, 99 %", f"{lo:g}, {mid:g}, {hi:g}"),
    ]
    if shear > 1e-3:
        rows.append(("shear", f"axes are {np.degrees(np.arcsin(min(shear, 1.0))):.2f} deg off a right angle"))
    rows += [("affine (RAS mm)", "  ".join(f"{x + 0.0:.6g}" for x in row)) for row in affine[:3]]
    rows += [("note", note) for note in volume.notes]
    return rows

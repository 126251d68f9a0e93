# SPDX-License-Identifier: Apache-2.0
"""DICOM series: which files belong together, and the volume that CT and MR slices make in patient space.

Order and spacing come from Image Position (Patient) along the slice normal (PS3.3 C.7.6.2.1.1), never from file
names or instance numbers. Messages name files by their number in natural order: names may identify a patient.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medrecon.errors import InputError
from medrecon.ingest.dicom_io import (
    DICOMDIR_CLASS,
    MAX_SAMPLES,
    MODALITIES,
    decode_frames,
    frame_group,
    list_files,
    number_of_frames,
    quiet,
    read_dataset,
    read_header,
)
from medrecon.types import Volume

# A slice may lie this far off the regular grid: 5 % of the slice distance, or what rounding positions to 0.1 mm does,
# but never more than 20 % of the slice distance...
_GRID_TOLERANCE, _ROUNDING_MM, _GRID_TOLERANCE_MAX = 0.05, 0.11, 0.2
# ...and this fraction of a pixel sideways before the stack counts as sheared (gantry tilt).
_SHEAR_TOLERANCE_PX = 0.1
_ORIENTATION_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Instance:
    """One file of a series.

    Attributes:
        path: never shown.
        number: 1-based place of the file in natural order among all files found; messages use it.
        rows, columns, n_frames: image size in px and number of frames.
        position: (x, y, z) mm LPS of the first pixel's centre; None when the header has none (or it is per frame).
        orientation: direction cosines of the row and the column, LPS; None likewise.
        instance_number, acquired: for ordering pictures that have no positions; ``acquired`` sorts as text.
        time_s: seconds since midnight, None when the header has none. Used for differences only.
    """

    path: Path
    number: int
    rows: int
    columns: int
    n_frames: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    instance_number: int
    acquired: str
    time_s: float | None


@dataclass(frozen=True, slots=True)
class Series:
    """Files that belong together.

    Attributes:
        instances: in natural order of their paths (not yet in geometric order).
        modality: "CT", "MR", "ES", ...; "" when the header holds no known term.
        n_files_seen: how many files the search looked at, for messages.
        localizer: the images are scouts.
    """

    instances: tuple[Instance, ...]
    modality: str
    n_files_seen: int
    localizer: bool = False

    @property
    def n_images(self) -> int:
        return sum(i.n_frames for i in self.instances)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Distinct (columns, rows) in px."""
        return tuple(sorted({(i.columns, i.rows) for i in self.instances}))

    @property
    def label(self) -> str:
        """What may be shown of the series: modality, count and size."""
        size = " and ".join(f"{c}x{r}" for c, r in self.sizes[:3])
        kind = " (localizer)" if self.localizer else ""
        count = f"{self.n_images} image{'s' if self.n_images > 1 else ''}"
        return f"{self.modality or 'unknown modality'}, {count} of {size} px{kind}"

    def where(self, instance: Instance) -> str:
        return f"DICOM file {instance.number} of {self.n_files_seen}"


def find_series(path: Path, by_geometry: bool = True) -> list[Series]:
    """Group the DICOM images in a file or below a folder.

    Args:
        path: a file or a folder; files that are not DICOM, and DICOMDIR, are ignored.
        by_geometry: also split a Series Instance UID by frame of reference and orientation (scouts, reformats).

    Returns:
        Series, largest first (ties: natural order of their first file).

    Raises:
        InputError: nothing there is DICOM, nothing has pixels, or a file is damaged.
    """
    files = list_files(path)
    groups: dict[tuple, list[tuple[Instance, str, bool]]] = defaultdict(list)
    n_dicom = 0
    for number, file in enumerate(files, 1):
        where = f"DICOM file {number} of {len(files)}"
        ds = read_header(file, where)
        if ds is None or file.name.upper() == "DICOMDIR":
            continue
        with quiet():
            try:
                if str(ds.file_meta.get("MediaStorageSOPClassUID", "")) == DICOMDIR_CLASS:
                    continue
                n_dicom += 1
                if not (ds.get("Rows") and ds.get("Columns")):
                    continue  # reports, structure sets, presentation states
                key, row = _summary(ds, file, number, by_geometry)
            except InputError:
                raise
            except Exception:
                raise InputError(f"{where} has a damaged header", "export or copy it again, or remove it") from None
        groups[key].append(row)
    if not groups:
        if n_dicom:
            raise InputError(
                f"{n_dicom} DICOM files were found but none holds pixel data",
                "choose the image series, not its reports",
            )
        raise InputError(
            f"none of the {len(files)} files found is DICOM", "give a DICOM file or a folder that holds DICOM files"
        )
    series = [
        Series(tuple(r[0] for r in rows), rows[0][1], len(files), all(r[2] for r in rows)) for rows in groups.values()
    ]
    return sorted(series, key=lambda s: (-s.n_images, s.instances[0].number))


def _summary(ds: Dataset, path: Path, number: int, by_geometry: bool) -> tuple[tuple, tuple[Instance, str, bool]]:
    modality = str(ds.get("Modality", "")).strip().upper()
    localizer = "LOCALIZER" in [str(v).upper() for v in _many(ds.get("ImageType"))]
    position, orientation = _floats(ds.get("ImagePositionPatient"), 3), _floats(ds.get("ImageOrientationPatient"), 6)
    stamp = str(ds.get("AcquisitionDateTime") or "") or (
        str(ds.get("AcquisitionDate") or ds.get("ContentDate") or "")
        + str(ds.get("AcquisitionTime") or ds.get("ContentTime") or "")
    )
    instance = Instance(
        path,
        number,
        int(ds.Rows),
        int(ds.Columns),
        number_of_frames(ds),
        position,
        orientation,
        int(ds.get("InstanceNumber") or 0),
        stamp,
        _seconds(str(ds.get("AcquisitionTime") or ds.get("ContentTime") or "")),
    )
    key: tuple = (str(ds.get("SeriesInstanceUID", "")),)
    if by_geometry:
        rounded = tuple(round(v, 2) + 0.0 for v in orientation) if orientation else None
        key += (str(ds.get("FrameOfReferenceUID", "")), rounded, localizer)
    return key, (instance, modality if modality in MODALITIES else "", localizer)


def _many(value) -> list:
    if value is None or value == "":
        return []
    return list(value) if not isinstance(value, str) and hasattr(value, "__iter__") else [value]


def _floats(value, n: int) -> tuple[float, ...] | None:
    values = _many(value)
    if len(values) != n:
        return None
    out = tuple(float(v) for v in values)
    return out if np.isfinite(out).all() else None


def _seconds(text: str) -> float | None:
    """DICOM TM "HHMMSS.FFFFFF" -> seconds since midnight."""
    text = text.replace(":", "")
    try:
        whole = text[:6].ljust(6, "0")
        fraction = float("0" + text[6:]) if text[6:7] == "." else 0.0
        return int(whole[:2]) * 3600 + int(whole[2:4]) * 60 + int(whole[4:6]) + fraction if text else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class _Slice:
    """Geometry and value transform of one frame."""

    position: np.ndarray  # float64 [3] mm LPS
    orientation: np.ndarray  # float64 [6]
    spacing: tuple[float, float]  # (between rows, between columns) mm
    slope: float
    intercept: float
    pixels: np.ndarray | None = None


def read_volume(series: Series) -> Volume:
    """Stack a CT or MR series (classic slices or enhanced multi-frame) into one volume.

    Returns:
        Volume with ``data[i, j, k]``: i = column, j = row, k = slice along the normal (row x column direction), in
        rescaled units (CT: HU); int16 when every value is whole and fits, else float32. The array is a transposed
        view of [k, j, i] memory. The affine is in mm, RAS.

    Raises:
        InputError: scouts, colour pictures, no pixels, mixed sizes, tilted gantry, missing or doubled slices, ...
    """
    if series.localizer:
        raise InputError(
            f"the series is a scout (localizer) of {series.n_images} images, not a volume", "choose the axial series"
        )
    if len(series.sizes) > 1:
        sizes = ", ".join(
            f"{sum(i.n_frames for i in series.instances if (i.columns, i.rows) == s)} of {s[0]}x{s[1]}"
            for s in series.sizes[:5]
        )
        raise InputError(f"the series mixes image sizes: {sizes} px", "keep the images of one size in the folder")
    columns, rows = series.sizes[0]
    if columns * rows * series.n_images > MAX_SAMPLES:
        raise InputError(
            f"the headers claim {series.n_images} slices of {columns}x{rows} px, which cannot be right",
            "export the series again",
        )
    if series.n_images < 2:
        raise InputError("the series holds one slice, which is no volume", "give the folder with the whole series")
    slices: list[_Slice] = []
    for instance in series.instances:
        slices += _load_slices(instance, series.where(instance))
    order, step = _order(slices)
    slices = [slices[i] for i in order]
    first = slices[0]
    lps = np.eye(4)
    lps[:3, 0] = first.orientation[:3] * first.spacing[1]
    lps[:3, 1] = first.orientation[3:] * first.spacing[0]
    lps[:3, 2] = step
    lps[:3, 3] = first.position
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    data = _stack(slices)
    kind = f"{series.modality or 'DICOM'} series, {len(slices)} slices of {columns}x{rows}"
    return Volume(data.transpose(2, 1, 0), ras + 0.0, series.modality, (kind,)).validate()


def _load_slices(instance: Instance, where: str) -> list[_Slice]:
    ds = read_dataset(instance.path, where)
    if int(ds.get("SamplesPerPixel") or 1) != 1:
        raise InputError(f"{where} is a colour picture, not a slice of a volume", "read it with the dicom source")
    with quiet():
        try:
            geometry = [_frame_geometry(ds, i) for i in range(instance.n_frames)]
        except Exception:
            raise InputError(
                f"{where} lacks or garbles the position, orientation or pixel spacing of its images",
                "export the original series, not screenshots or derived pictures of it",
            ) from None
    out = []
    for g, pixels in zip(geometry, decode_frames(ds, where)):
        if not g.spacing[0] > 0 or not g.spacing[1] > 0:
            raise InputError(f"{where} states a pixel spacing that is not positive", "export the original series")
        out.append(_Slice(g.position, g.orientation, g.spacing, g.slope, g.intercept, _modality_lut(ds, pixels, where)))
    return out


def _frame_geometry(ds: Dataset, index: int) -> _Slice:
    """Position, orientation, spacing and rescale of one frame: from the header, or the functional groups."""
    position = _floats(frame_group(ds, index, "PlanePositionSequence").get("ImagePositionPatient"), 3)
    orientation = _floats(frame_group(ds, index, "PlaneOrientationSequence").get("ImageOrientationPatient"), 6)
    spacing = _floats(frame_group(ds, index, "PixelMeasuresSequence").get("PixelSpacing"), 2)
    if position is None or orientation is None or spacing is None:
        raise ValueError("geometry is missing")
    values = frame_group(ds, index, "PixelValueTransformationSequence")
    if "RescaleSlope" not in values:
        values = ds
    slope, intercept = values.get("RescaleSlope"), values.get("RescaleIntercept")
    slope = 1.0 if slope in (None, "") else float(slope)
    intercept = 0.0 if intercept in (None, "") else float(intercept)
    axes = np.array(orientation).reshape(2, 3)
    length = np.linalg.norm(axes, axis=1)
    if np.abs(length - 1).max() > 0.01 or abs(axes[0] @ axes[1]) > 0.01 or not np.isfinite([slope, intercept]).all():
        raise ValueError("direction cosines are not orthonormal")
    # Cosines are stored with some five digits; the affine should not inherit that rounding as shear.
    row = axes[0] / length[0]
    column = axes[1] - (axes[1] @ row) * row
    return _Slice(np.array(position), np.concatenate([row, column / np.linalg.norm(column)]), spacing, slope, intercept)


def _modality_lut(ds: Dataset, pixels: np.ndarray, where: str) -> np.ndarray:
    if not ds.get("ModalityLUTSequence"):
        return pixels
    from pydicom.pixels import apply_modality_lut

    with quiet():
        try:
            return apply_modality_lut(pixels, ds)
        except Exception:
            raise InputError(f"{where} has a damaged modality look-up table", "export it again") from None


def _order(slices: list[_Slice]) -> tuple[np.ndarray, np.ndarray]:
    """Order along the normal and the step from slice to slice (float64 [3], mm LPS); checks the stack is regular."""
    first = slices[0]
    for s in slices:
        if np.abs(s.orientation - first.orientation).max() > _ORIENTATION_TOLERANCE:
            raise InputError("the slices are not parallel to each other", "choose a series of parallel slices")
        if np.abs(np.subtract(s.spacing, first.spacing)).max() > 1e-3 * min(first.spacing):
            raise InputError(
                "the slices differ in pixel spacing", "keep the images of one reconstruction in the folder"
            )
    row, column = first.orientation[:3], first.orientation[3:]
    normal = np.cross(row, column)
    positions = np.array([s.position for s in slices])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    positions, along = positions[order], along[order]
    gaps = np.diff(along)
    n = len(slices)
    extent = along[-1] - along[0]
    expected = float(np.median(gaps))
    doubled = int((gaps < max(1e-3, 0.01 * extent / n)).sum())
    if doubled:
        raise InputError(
            f"{n} slices share {n - doubled} positions: several images lie at the same place",
            "split the series by echo, phase or time, or remove the copies",
        )
    sideways = positions - positions[0] - np.outer(along - along[0], normal)
    drift = np.abs(sideways @ np.stack([row, column], 1)) / np.array(first.spacing)[::-1]
    if drift.max() > _SHEAR_TOLERANCE_PX:
        angle = np.degrees(np.arctan2(np.linalg.norm(sideways[-1]), extent))
        raise InputError(
            f"the slices are shifted sideways by up to {np.linalg.norm(sideways, axis=1).max():.2f} mm: the gantry was "
            f"tilted by about {angle:.1f} degrees",
            "resample the series to an upright grid first (for example with dcm2niix or 3D Slicer)",
        )
    off = np.abs(along - np.linspace(along[0], along[-1], n))
    allowed = min(_GRID_TOLERANCE_MAX * expected, max(_GRID_TOLERANCE * expected, _ROUNDING_MM))
    if off.max() > allowed:
        worst = int(np.argmax(np.abs(gaps - expected)))
        ratio = gaps[worst] / expected
        lost = round(ratio) - 1
        hint = f", as if {lost} were missing" if lost >= 1 and abs(ratio - round(ratio)) < 0.05 else ""
        raise InputError(
            f"the slices are unevenly spaced: {expected:.3g} mm expected, {gaps[worst]:.3g} mm found between slices "
            f"{worst + 1} and {worst + 2} of {n}{hint}",
            "find the missing slices, or resample the series to even spacing",
        )
    return order, (positions[-1] - positions[0]) / (n - 1)


def _stack(slices: list[_Slice]) -> np.ndarray:
    """[k, j, i] in rescaled units: int16 when all values are whole and fit, else float32."""
    whole = all(
        np.issubdtype(s.pixels.dtype, np.integer) and s.slope == int(s.slope) and s.intercept == int(s.intercept)
        for s in slices
    )
    if whole:
        low = min(min(int(s.pixels.min()) * s.slope, int(s.pixels.max()) * s.slope) + s.intercept for s in slices)
        high = max(max(int(s.pixels.min()) * s.slope, int(s.pixels.max()) * s.slope) + s.intercept for s in slices)
        whole = -32768 <= low and high <= 32767
    out = np.empty((len(slices), *slices[0].pixels.shape), np.int16 if whole else np.float32)
    for k, s in enumerate(slices):
        work = np.int64 if whole else np.float64
        out[k] = s.pixels.astype(work) * work(s.slope) + work(s.intercept)
    return out

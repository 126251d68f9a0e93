# SPDX-License-Identifier: Apache-2.0
"""Source `dicom`: cine, multi-frame and single-frame pictures. Only pixels, times, spacing and modality pass it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from pydantic import Field, field_validator
from pydicom.dataset import FileDataset

from medrecon.errors import InputError
from medrecon.ingest import pixels
from medrecon.ingest.dicom_io import decode_frames, frame_group, quiet, read_dataset, read_header, transfer_syntax
from medrecon.ingest.dicom_series import Instance, Series, find_series
from medrecon.ingest.dicom_times import frame_times
from medrecon.ingest.dicom_video import decode_video, is_video
from medrecon.ingest.pictures import PictureSourceConfig, PictureWriter, pick
from medrecon.privacy.burned_in import burned_in_warning
from medrecon.progress import Progress
from medrecon.types import FrameSet

_SAMPLED = 32  # frames looked at for the common grey range when the header has no window


class DicomSourceConfig(PictureSourceConfig):
    path: Path = Field(description="DICOM file, or a folder that holds DICOM files at any depth")
    series: int | None = Field(
        None, ge=0, description="which series, counted as the error message lists them, when there are several"
    )
    window: tuple[float, float] | None = Field(
        None, description="[center, width] in modality units (CT: HU), instead of what the header says"
    )
    window_index: int = Field(0, ge=0, description="which of the header's windows or VOI look-up tables, from 0")

    @field_validator("window")
    @classmethod
    def _wide(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[1] < 1:
            raise ValueError("window is [center, width] with a width of at least 1")
        return value


@dataclass(frozen=True, slots=True)
class _Item:
    """One frame of one file, in the order of the pictures."""

    instance: Instance
    frame: int
    time_s: float | None


class DicomSource:
    """Pictures of one DICOM series. ``frame_id`` is the frame's place in the series."""

    def __init__(self, config: DicomSourceConfig):
        self.config = config

    def read(self, out_dir: Path, progress: Progress) -> FrameSet:
        """Write the pictures below ``out_dir``.

        Raises:
            InputError: no DICOM, several series and none chosen, damaged files, no decoder, unusable window.
            StageError: the run folder cannot be written to.
        """
        config = self.config
        series = choose_series(find_series(config.path, by_geometry=False), config.series)
        items, order_note, order_warning = _in_order(series)
        chosen = pick(range(len(items)), config.stride, config.max_frames)
        if order_warning:
            progress.say(order_warning)
        limits = self._common_limits(series, [items[i] for i in chosen])
        progress.begin(len(chosen), "frames")
        writer = PictureWriter(out_dir, config)
        facts = _Facts()
        frames = []
        for index, item, ds, picture, window in self._pictures(series, items, chosen, limits):
            warning = facts.add(ds, window)
            if warning:
                progress.say(warning)
            frames.append(writer.write(index, picture, time_s=item.time_s, pixel_spacing_mm=_spacing(ds, item.frame)))
            progress.advance()
        notes = [order_note, *facts.notes(limits), *writer.notes()]
        kind = f"DICOM {series.modality or 'pictures'}, {series.n_images} frames in {len(series.instances)} files"
        return FrameSet(tuple(frames), kind, True, (), None, tuple(notes)).validate()

    def _pictures(
        self, series: Series, items: list[_Item], chosen: list[int], limits: tuple[float, float]
    ) -> Iterator[tuple[int, _Item, FileDataset, np.ndarray, pixels.Window | str]]:
        for instance, group in groupby(chosen, key=lambda i: items[i].instance):
            indices = list(group)
            where = series.where(instance)
            ds = read_dataset(instance.path, where)
            for index, stored in zip(indices, _decoded(ds, where, [items[i].frame for i in indices])):
                try:
                    picture, window = self._picture(ds, stored, items[index].frame, limits)
                except InputError as e:
                    raise InputError(f"{where}: {e.cause}", e.remedy) from None
                yield index, items[index], ds, picture, window

    def _picture(
        self, ds: FileDataset, stored: np.ndarray, frame: int, limits: tuple[float, float]
    ) -> tuple[np.ndarray, pixels.Window | str]:
        """The 8-bit picture, and what was done to its grey values in words."""
        if is_video(ds) or not pixels.is_grey(ds):
            return pixels.colour_picture(ds, stored), "colours as stored"
        window = self._window(ds, frame)
        if window is not None:
            return pixels.grey_picture(ds, stored, frame, window, 0, (0, 1)), window
        if pixels.has_voi_lut(ds):
            return pixels.grey_picture(ds, stored, frame, None, self.config.window_index, (0, 1)), "VOI look-up table"
        own = pixels.full_range(ds)
        shown = own or limits
        return pixels.grey_picture(ds, stored, frame, None, 0, shown), "full range" if own else "common range"

    def _window(self, ds: FileDataset, frame: int) -> pixels.Window | None:
        if self.config.window is not None:
            return pixels.Window(*self.config.window)
        if pixels.has_voi_lut(ds):
            return None
        offered = pixels.header_windows(ds, frame)
        if not offered:
            return None
        if self.config.window_index >= len(offered):
            raise InputError(
                f"window_index {self.config.window_index} is asked for, the header offers {len(offered)} windows",
                "choose a smaller window_index, or set window: [center, width]",
            )
        return offered[self.config.window_index]

    def _common_limits(self, series: Series, items: list[_Item]) -> tuple[float, float]:
        """Black and white for frames without a window: percentiles over frames sampled from the whole series."""
        samples = []
        sampled = [items[i] for i in pick(range(len(items)), 1, _SAMPLED)]
        for instance, group in groupby(sampled, key=lambda item: item.instance):
            where = series.where(instance)
            ds = read_dataset(instance.path, where)
            if is_video(ds) or not pixels.is_grey(ds) or pixels.has_voi_lut(ds):
                continue
            frames = [g.frame for g in group if self._window(ds, g.frame) is None]
            if not frames or pixels.full_range(ds):
                continue
            for frame, stored in zip(frames, decode_frames(ds, where, indices=frames)):
                values = pixels.modality_values(ds, stored, frame)[pixels.without_padding(ds, stored)]
                values = values[np.isfinite(values)]
                samples.append(values[:: max(1, values.size // 65536)])
        values = np.concatenate(samples) if samples else np.zeros(0)
        if not values.size:  # every frame brings its own window, or nothing but padding
            return 0.0, 1.0
        low, high = np.percentile(values, [0.5, 99.5])
        return float(low), float(max(high, low + 1e-6))


def choose_series(series: list[Series], index: int | None) -> Series:
    """The one series there is, or the one asked for.  Raises InputError, listing them by number."""
    if index is None and len(series) == 1:
        return series[0]
    if index is not None and index < len(series):
        return series[index]
    listed = "; ".join(f"{i}: {s.label}" for i, s in enumerate(series[:20]))
    more = f"; and {len(series) - 20} more" if len(series) > 20 else ""
    asked = "several series were found" if index is None else f"there is no series {index}"
    raise InputError(f"{asked}: {listed}{more}", "choose one with the option series: NUMBER")


def _in_order(series: Series) -> tuple[list[_Item], str, str]:
    """Frames in order of place, else time, else instance number; a note on which, and a warning or ""."""
    instances = list(series.instances)
    if len(instances) == 1:
        header = read_header(instances[0].path, series.where(instances[0]))
        times = [None] * instances[0].n_frames if header is None else frame_times(header, instances[0].n_frames)
        return [_Item(instances[0], k, t) for k, t in enumerate(times)], "frames in the order of the file", ""
    places = _places(instances)
    if places is not None:
        instances = [instances[i] for i in np.argsort(places, kind="stable")]
        note, times = "frames in order of position along the slice normal", {}
    elif len({i.acquired for i in instances}) == len(instances) and all(i.acquired for i in instances):
        instances.sort(key=lambda i: i.acquired)
        start = instances[0].time_s
        known = start is not None and len({i.acquired[:8] for i in instances}) == 1
        times = {i.number: i.time_s - start for i in instances if known and i.time_s is not None}
        note = "frames in order of acquisition time"
    elif len({i.instance_number for i in instances}) == len(instances):
        instances.sort(key=lambda i: i.instance_number)
        note, times = "frames in order of instance number", {}
    else:
        note, times = "frames in natural order of the files", {}
        warning = "the files state neither positions, times nor distinct instance numbers: natural order is used"
        return [_Item(i, k, None) for i in instances for k in range(i.n_frames)], note, warning
    if any(i.n_frames > 1 for i in instances):
        times = {}
        note += f"; {len(instances)} clips one after the other"
    return [_Item(i, k, times.get(i.number)) for i in instances for k in range(i.n_frames)], note, ""


def _places(instances: list[Instance]) -> np.ndarray | None:
    """Positions along the common normal; None unless all have one and they differ."""
    if any(i.position is None or i.orientation is None or i.n_frames > 1 for i in instances):
        return None
    orientation = np.array([i.orientation for i in instances])
    if np.abs(orientation - orientation[0]).max() > 1e-2:
        return None
    along = np.array([i.position for i in instances]) @ np.cross(orientation[0][:3], orientation[0][3:])
    return along if np.diff(np.sort(along)).min() > 1e-4 else None


def _decoded(ds: FileDataset, where: str, indices: list[int]) -> Iterator[np.ndarray]:
    if is_video(ds):
        return decode_video(ds, where, indices)
    return decode_frames(ds, where, raw=pixels.is_grey(ds), indices=indices)


def _spacing(ds: FileDataset, frame: int) -> tuple[float, float] | None:
    with quiet():
        try:
            row, column = (float(v) for v in frame_group(ds, frame, "PixelMeasuresSequence").PixelSpacing)
        except Exception:  # absent or damaged: then it is not known
            return None
    return (row, column) if np.isfinite([row, column]).all() and min(row, column) > 0 else None


class _Facts:
    """Collects what the report should say about the pictures, without identifiers."""

    def __init__(self) -> None:
        self.syntaxes: set[str] = set()
        self.windows: set[str] = set()
        self.warnings: list[str] = []

    def add(self, ds: FileDataset, window: pixels.Window | str) -> str:
        """Returns a warning when it is a new one, else ""."""
        self.syntaxes.add(transfer_syntax(ds))
        self.windows.add(f"window {window}" if isinstance(window, pixels.Window) else window)
        warning = burned_in_warning(ds)
        if warning and warning not in self.warnings:
            self.warnings.append(warning)
            return warning
        return ""

    def notes(self, limits: tuple[float, float]) -> list[str]:
        out = [", ".join(sorted(self.syntaxes))]
        shown = sorted(self.windows)
        out.append(shown[0] if len(shown) == 1 else f"{len(shown)} different windows, each picture shown with its own")
        if "common range" in self.windows:
            out.append(f"no window in the header: {limits[0]:g} to {limits[1]:g} shown as black to white")
        return out + (self.warnings or ["no sign of burned-in annotation in the headers"])

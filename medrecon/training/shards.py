# SPDX-License-Identifier: Apache-2.0
"""Training data on disk: small volumes and photographs, one NAME.npz each, that a training run renders by itself.

Contract: an .npz without pickles holds either ``volume`` uint8 [X, Y, Z] or ``photos`` uint8 [N, H, W], and ``meta``, a
JSON string. The world of a volume is its own: voxel (i, j, k) has its centre at (i, j, k) * spacing_mm, axes pointing
right, anterior and superior. A voxel of value v stands for lo + v / 255 * (hi - lo) of its ``value_range``.

Needs numpy and the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from medrecon.errors import InputError

VERSION = 1
SPLITS = ("train", "val", "test")
MODALITIES = ("CT", "MR", "photo")
# Opacity ramps that a volume may name; what they mean is said in raycast.RAMPS.
PRESETS = ("skin", "bone", "vessels", "airway", "brain")
_REMEDY = "build the shards again: medrecon train data --out DIR"


@dataclass(frozen=True)
class ShardMeta:
    """What a shard holds and whether it may be used for what.

    Attributes:
        name: of the file, without suffix.
        subject: whom it shows; a subject belongs to one split only.
        split: "train", "val" or "test".
        modality: "CT" (value_range in HU), "MR" (value_range[1] is the brightest tissue, about the 99.5th percentile of
            the voxels above zero) or "photo".
        license, citation: of the source.
        value_range: what the bytes 0 and 255 stand for.
        presets: opacity ramps that show something in this volume, some of ``PRESETS``; empty: slices only.
        frame: volumes of the same frame have the same grid, and a voxel is the same place of the same subject in all of
            them: CT and MR registered onto each other. Empty: a world of its own.
    """

    name: str
    subject: str
    split: Literal["train", "val", "test"]
    modality: Literal["CT", "MR", "photo"]
    license: str
    citation: str
    value_range: tuple[float, float] = (0.0, 255.0)
    presets: tuple[str, ...] = ()
    frame: str = ""

    def __post_init__(self):
        for key, value, allowed in (("split", self.split, SPLITS), ("modality", self.modality, MODALITIES)):
            if value not in allowed:
                raise InputError(f"shard {self.name!r}: {key} {value!r} is not one of {', '.join(allowed)}", _REMEDY)
        unknown = [p for p in self.presets if p not in PRESETS]
        if unknown:
            raise InputError(f"shard {self.name!r}: preset {unknown[0]!r} is not one of {', '.join(PRESETS)}", _REMEDY)
        if len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]:
            raise InputError(f"shard {self.name!r}: value_range {self.value_range} is not [low, high]", _REMEDY)


@dataclass(frozen=True)
class Shard:
    """One source in memory.

    Attributes:
        meta: what it is.
        volume: uint8 [X, Y, Z], or None for photographs.
        spacing_mm: of the voxels along X, Y, Z.
        photos: uint8 [N, H, W], or None for a volume.
        digest: sha256 of the file's contents, for caches.
    """

    meta: ShardMeta
    volume: np.ndarray | None = field(default=None, repr=False)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    photos: np.ndarray | None = field(default=None, repr=False)
    digest: str = ""


def write_volume(
    folder: str | Path, meta: ShardMeta, volume: np.ndarray, spacing_mm: tuple[float, float, float]
) -> Path:
    """Write ``folder``/NAME.npz; the file appears whole or not at all.

    Args:
        volume: uint8 [X, Y, Z].
        spacing_mm: of the voxels; nearly cubic ones render best.
    """
    volume, spacing = _checked(meta, volume, "volume"), tuple(float(s) for s in spacing_mm)
    if meta.modality == "photo":
        raise InputError(f"shard {meta.name!r}: a volume is CT or MR, not photo", _REMEDY)
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f"shard {meta.name!r}: spacing_mm {spacing_mm} is not three lengths", _REMEDY)
    return _write(Path(folder), meta, {"volume": volume, "spacing_mm": np.array(spacing)})


def write_photos(folder: str | Path, meta: ShardMeta, photos: np.ndarray) -> Path:
    """Write ``folder``/NAME.npz with grey photographs of one size, uint8 [N, H, W]."""
    photos = _checked(meta, photos, "photos")
    if meta.modality != "photo":
        raise InputError(f"shard {meta.name!r}: photographs have the modality photo, not {meta.modality}", _REMEDY)
    return _write(Path(folder), meta, {"photos": photos})


def read_shards(folder: str | Path, split: str | None = None) -> list[Shard]:
    """The shards of a folder in the order of their names, those of one split or all.

    Raises:
        InputError: no such folder, no shard of that split, a damaged file, a subject in more than one split, or
            volumes of one frame with different grids or subjects.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"the shard folder {folder} does not exist", _REMEDY)
    if split is not None and split not in SPLITS:
        raise InputError(f"there is no split {split!r}", f"one of {', '.join(SPLITS)}")
    shards = [_read(path) for path in sorted(folder.glob("*.npz")) if not path.name.startswith(".")]
    splits: dict[str, str] = {}
    for shard in shards:
        other = splits.setdefault(shard.meta.subject, shard.meta.split)
        if other != shard.meta.split:
            raise InputError(f"{folder}: subject {shard.meta.subject!r} is in {other} and {shard.meta.split}", _REMEDY)
    _check_frames(folder, shards)
    chosen = [s for s in shards if split in (None, s.meta.split)]
    if not chosen:
        raise InputError(f"{folder} holds no shards" + (f" of the split {split}" if split else ""), _REMEDY)
    return chosen


def _check_frames(folder: Path, shards: list[Shard]) -> None:
    first: dict[str, Shard] = {}
    for shard in (s for s in shards if s.meta.frame):
        other = first.setdefault(shard.meta.frame, shard)
        if shard.volume is None or _place(shard) != _place(other):
            raise InputError(
                f"{folder}: {other.meta.name} and {shard.meta.name} have the frame {shard.meta.frame!r}, but not one "
                "subject and grid",
                _REMEDY,
            )


def _place(shard: Shard) -> tuple:
    return shard.meta.subject, shard.spacing_mm, None if shard.volume is None else shard.volume.shape


def _checked(meta: ShardMeta, array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim != 3 or min(array.shape) < 2:
        raise InputError(
            f"shard {meta.name!r}: {what} must be uint8 with three axes, not {array.dtype} {array.shape}", _REMEDY
        )
    return np.ascontiguousarray(array)


def _write(folder: Path, meta: ShardMeta, arrays: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path, temporary = folder / f"{meta.name}.npz", folder / f".{meta.name}.partial.npz"
    facts = {"version": VERSION, **asdict(meta)}
    if not meta.frame:  # written as before there were frames, so that the same volume keeps its digest
        del facts["frame"]
    text = json.dumps(facts, allow_nan=False)
    try:
        np.savez_compressed(temporary, meta=np.array(text), **arrays)
        os.replace(temporary, path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {e}", "free disk space or choose another folder") from e
    return path


def _read(path: Path) -> Shard:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        facts = json.loads(str(arrays["meta"]))
        if facts.pop("version") != VERSION:
            raise InputError(f"{path} was written by another version of medrecon", _REMEDY)
        meta = ShardMeta(
            **{**facts, "value_range": tuple(facts["value_range"]), "presets": tuple(facts["presets"])},
        )
        digest = hashlib.sha256(str(arrays["meta"]).encode())
        if meta.modality == "photo":
            photos = _checked(meta, arrays["photos"], "photos")
            digest.update(photos)
            return Shard(meta, photos=photos, digest=digest.hexdigest())
        volume = _checked(meta, arrays["volume"], "volume")
        spacing = tuple(float(s) for s in arrays["spacing_mm"])
        if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
            raise InputError(f"{path}: spacing_mm {spacing} is not three lengths", _REMEDY)
        digest.update(repr((spacing, volume.shape)).encode())
        digest.update(volume)
        return Shard(meta, volume=volume, spacing_mm=spacing, digest=digest.hexdigest())
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as e:
        raise InputError(f"{path} cannot be read as a shard: {type(e).__name__}: {e}", _REMEDY) from e

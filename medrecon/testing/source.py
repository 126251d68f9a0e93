# SPDX-License-Identifier: Apache-2.0
"""Conformance kit for sources."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medrecon.errors import InputError
from medrecon.images import read_any, read_mask
from medrecon.progress import Quiet
from medrecon.testing.contract import require, require_valid
from medrecon.types import FrameSet

KIND = "source"
_PNG = b"\x89PNG\r\n\x1a\n"


class SourceConformance:
    """Inherit in a class called ``Test...`` and override :meth:`make`, and :meth:`make_broken` where you can."""

    def make(self, input_dir: Path) -> Any:
        """Write a small input below ``input_dir`` (an empty folder) and return a source that reads it."""
        raise NotImplementedError("override make(input_dir) and return your source")

    def make_broken(self, input_dir: Path) -> Any:
        """The same with an input that cannot be read; None where there is no such thing."""
        return None

    @contextmanager
    def _space(self):
        """A folder with ``in`` and an empty working directory ``cwd``; the process stands in ``cwd`` meanwhile."""
        before = os.getcwd()
        with tempfile.TemporaryDirectory() as name:
            root = Path(name).resolve()
            for folder in ("in", "cwd"):
                (root / folder).mkdir()
            os.chdir(root / "cwd")
            try:
                yield root
            finally:
                os.chdir(before)

    def _read(self, source: Any, out: Path) -> FrameSet:
        out.mkdir(exist_ok=True)
        frames = source.read(out, Quiet())
        require(isinstance(frames, FrameSet), KIND, "read returns medrecon.types.FrameSet", type(frames).__name__)
        require_valid(frames.validate, KIND, "read returns a valid FrameSet: at least one frame, unique ids")
        return frames

    def test_frames_are_what_they_say(self) -> None:
        with self._space() as root:
            frames = self._read(self.make(root / "in"), root / "out")
            ids = [f.frame_id for f in frames.frames]
            require(all(type(i) is int and i >= 0 for i in ids), KIND, "frame ids are Python ints from 0", f"{ids[:5]}")
            require(ids == sorted(ids), KIND, "frame ids rise in the natural order of the frames", f"{ids[:8]}")
            names = [f.name for f in frames.frames]
            require(len(set(names)) == len(names), KIND, "frame names are unique", f"{names[:5]}")
            plain = all(n and not set(n) & set("/\\\0") for n in names)
            require(plain, KIND, "frame names are plain stems without path separators", f"{names[:5]}")
            require(bool(frames.source), KIND, "the set says in words what it came from", repr(frames.source))
            for f in frames.frames:
                self._check_picture(f, root / "out")

    def _check_picture(self, frame: Any, out: Path) -> None:
        path = Path(frame.image_path)
        inside = path.is_file() and path.resolve().is_relative_to(out.resolve())
        require(inside, KIND, "every picture is a file below out_dir", str(path.name))
        require(path.read_bytes()[:8] == _PNG, KIND, "pictures are PNG files", path.name)
        image = read_any(path)
        depth_ok = image.dtype.name == "uint8" and (image.ndim == 2 or image.shape[2] == 3)
        require(depth_ok, KIND, "pictures are 8-bit grey or RGB", f"{path.name}: {image.dtype} {image.shape}")
        size = (image.shape[1], image.shape[0])
        said = (frame.width_px, frame.height_px)
        require(size == said, KIND, "width_px and height_px are those of the file", f"{path.name}: {said}, file {size}")
        if frame.mask_path is not None:
            mask = read_mask(frame.mask_path)
            require(mask.shape == image.shape[:2], KIND, "a mask has the size of its picture", f"{mask.shape}")
        if frame.camera is not None:
            require_valid(frame.camera.validate, KIND, "a known camera is valid")
            camera = (frame.camera.width_px, frame.camera.height_px)
            require(camera == size, KIND, "a known camera has the size of its picture", f"{camera}, file {size}")

    def test_writes_nothing_outside_out_dir(self) -> None:
        with self._space() as root:
            source = self.make(root / "in")
            before = _snapshot(root, skip="out")
            self._read(source, root / "out")
            after = _snapshot(root, skip="out")
            touched = sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))
            require(
                not touched, KIND, "read writes below out_dir only and leaves its input alone", f"touched {touched[:3]}"
            )

    def test_second_read_is_identical(self) -> None:
        with self._space() as root:
            first, second = (self._read(self.make(_fresh(root / n)), root / f"out-{n}") for n in ("one", "two"))
            a, b = _content(first, root / "out-one"), _content(second, root / "out-two")
            require(a == b, KIND, "reading the same input twice gives the same frames, pixel for pixel", _first(a, b))

    def test_reads_again_into_the_same_folder(self) -> None:
        with self._space() as root:
            source = self.make(root / "in")
            first = _content(self._read(source, root / "out"), root / "out")
            again = _content(self._read(source, root / "out"), root / "out")
            require(first == again, KIND, "a folder left by a killed run is read into again with the same result")

    def test_survives_saving(self) -> None:
        with self._space() as root:
            frames = self._read(self.make(root / "in"), root / "out")
            frames.save(root / "out" / "frames.json")
            loaded = FrameSet.load(root / "out" / "frames.json")
            contract = "the FrameSet is the same after saving and loading"
            require(_content(frames, root / "out") == _content(loaded, root / "out"), KIND, contract)

    def test_refuses_broken_input(self) -> None:
        with self._space() as root:
            source = self.make_broken(root / "in")
            if source is None:
                import pytest

                pytest.skip("make_broken is not overridden")
            contract = "input that cannot be read raises medrecon.errors.InputError"
            try:
                source.read(_fresh(root / "out"), Quiet())
            except InputError:
                return
            except Exception as e:
                require(False, KIND, contract, f"{type(e).__name__}: {e}")
            require(False, KIND, contract, "no error")


def _fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _snapshot(root: Path, skip: str) -> dict[str, str]:
    files = (p for p in sorted(root.rglob("*")) if p.relative_to(root).parts[0] != skip and p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _content(frames: FrameSet, out: Path) -> list[tuple]:
    """Everything a later stage could see of the frames, with pictures as pixels and paths relative."""
    rows: list[tuple] = [(frames.source, frames.ordered, frames.notes, frames.dropped)]
    for f in frames.frames:
        mask = None if f.mask_path is None else hashlib.sha256(read_mask(f.mask_path).tobytes()).hexdigest()
        pose = None if f.cam_from_world_mm is None else f.cam_from_world_mm.matrix().tobytes()
        pixels = hashlib.sha256(read_any(f.image_path).tobytes()).hexdigest()
        path = os.path.relpath(f.image_path, out)
        rows.append((f.frame_id, f.name, path, pixels, mask, f.time_s, f.camera, pose, f.pixel_spacing_mm))
    return rows


def _first(a: list[tuple], b: list[tuple]) -> str:
    if len(a) != len(b):
        return f"{len(a) - 1} frames, then {len(b) - 1}"
    return f"first difference at row {next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), 0)}"

# SPDX-License-Identifier: Apache-2.0
"""Frames: the pictures that flow down the street, and the truth that is kept apart from them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medrecon.errors import InputError
from medrecon.types.camera import Camera
from medrecon.types.storage import read_json, write_json
from medrecon.types.transforms import Rigid3


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture on disk.

    Attributes:
        frame_id: unique in its set, never renumbered by later stages.
        name: de-identified stem such as "000012".
        image_path: 8-bit RGB (or grey) PNG.
        mask_path: 8-bit PNG of the same size, 255 = use, 0 = ignore; None = use everything.
        time_s: time in the clip, None when the order carries no time.
        camera: known intrinsics, None when they are to be estimated.
        cam_from_world_mm: pose known beforehand (a tracker, a robot); None normally. Never the truth of a rendering.
        pixel_spacing_mm: in-plane spacing (row, column) where the image is a slice or radiograph, else None.
    """

    frame_id: int
    name: str
    image_path: Path
    width_px: int
    height_px: int
    mask_path: Path | None = None
    time_s: float | None = None
    camera: Camera | None = None
    cam_from_world_mm: Rigid3 | None = None
    pixel_spacing_mm: tuple[float, float] | None = None

    def load_image(self) -> np.ndarray:
        """uint8 [H, W, 3] RGB.  Raises InputError when the file is gone or broken."""
        from medrecon.images import read_rgb

        return read_rgb(self.image_path)

    def load_mask(self) -> np.ndarray | None:
        """bool [H, W], True = use; None when there is no mask."""
        from medrecon.images import read_mask

        return None if self.mask_path is None else read_mask(self.mask_path)


@dataclass(frozen=True, slots=True)
class DroppedFrame:
    """A frame that was left out, and why (shown to the user)."""

    frame_id: int
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known exactly because the pictures were rendered. Only the analysis stage may read it.

    Attributes:
        cameras, cam_from_world_mm: by frame_id.
        depth_paths: by frame_id, npz with ``depth_mm`` float32 [H, W]: z-depth, 0 where the ray hits nothing.
        surface_path: PLY in world mm, None when there is none.
        volume_path: the volume the pictures were rendered from, None when there is none.
    """

    cameras: dict[int, Camera] = field(default_factory=dict)
    cam_from_world_mm: dict[int, Rigid3] = field(default_factory=dict)
    depth_paths: dict[int, Path] = field(default_factory=dict)
    surface_path: Path | None = None
    volume_path: Path | None = None

    def save(self, path: Path) -> None:
        base = path.parent
        rel = lambda p: None if p is None else os.path.relpath(p, base)  # noqa: E731
        write_json(
            path,
            {
                "schema": 1,
                "cameras": {str(k): c.to_dict() for k, c in self.cameras.items()},
                "cam_from_world_mm": {str(k): p.matrix().tolist() for k, p in self.cam_from_world_mm.items()},
                "depth_paths": {str(k): rel(p) for k, p in self.depth_paths.items()},
                "surface_path": rel(self.surface_path),
                "volume_path": rel(self.volume_path),
            },
        )

    @staticmethod
    def load(path: Path) -> "Truth":
        data, base = read_json(path), Path(path).parent
        resolve = lambda p: None if p is None else Path(os.path.normpath(base / p))  # noqa: E731
        return Truth(
            {int(k): Camera.from_dict(c) for k, c in data["cameras"].items()},
            {int(k): Rigid3.from_matrix(np.array(m)) for k, m in data["cam_from_world_mm"].items()},
            {int(k): resolve(p) for k, p in data["depth_paths"].items()},
            resolve(data["surface_path"]),
            resolve(data["volume_path"]),
        )


@dataclass(frozen=True, slots=True)
class FrameSet:
    """An ordered set of frames from one source.

    Attributes:
        frames: in natural (time or path) order.
        source: what they came from, in words without identifiers.
        ordered: True when neighbours in the list are neighbours in time or space (video, path).
        dropped: frames left out so far, with reasons.
        truth_path: truth.json when the pictures were rendered, else None.
        notes: facts for the report (window used, transfer syntax, privacy status...), no identifiers.
    """

    frames: tuple[Frame, ...]
    source: str
    ordered: bool = True
    dropped: tuple[DroppedFrame, ...] = ()
    truth_path: Path | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frames)

    def by_id(self) -> dict[int, Frame]:
        return {f.frame_id: f for f in self.frames}

    def subset(self, frame_ids: list[int], dropped: tuple[DroppedFrame, ...] = ()) -> "FrameSet":
        keep = set(frame_ids)
        frames = tuple(f for f in self.frames if f.frame_id in keep)
        return replace(self, frames=frames, dropped=self.dropped + tuple(dropped))

    def validate(self) -> "FrameSet":
        if not self.frames:
            raise InputError("no frames were found", "check the path and that it holds images, a video or DICOM files")
        ids = [f.frame_id for f in self.frames]
        if len(set(ids)) != len(ids):
            raise InputError("frame ids are not unique")
        return self

    def save(self, path: Path) -> None:
        """JSON with paths relative to the file's folder, so that a run can be moved."""
        base = path.parent
        rel = lambda p: None if p is None else os.path.relpath(p, base)  # noqa: E731
        write_json(
            path,
            {
                "schema": 1,
                "source": self.source,
                "ordered": self.ordered,
                "truth_path": rel(self.truth_path),
                "notes": list(self.notes),
                "dropped": [[d.frame_id, d.name, d.reason] for d in self.dropped],
                "frames": [
                    {
                        "frame_id": f.frame_id,
                        "name": f.name,
                        "image_path": rel(f.image_path),
                        "width_px": f.width_px,
                        "height_px": f.height_px,
                        "mask_path": rel(f.mask_path),
                        "time_s": f.time_s,
                        "camera": f.camera.to_dict() if f.camera else None,
                        "cam_from_world_mm": f.cam_from_world_mm.matrix().tolist() if f.cam_from_world_mm else None,
                        "pixel_spacing_mm": list(f.pixel_spacing_mm) if f.pixel_spacing_mm else None,
                    }
                    for f in self.frames
                ],
            },
        )

    @staticmethod
    def load(path: Path) -> "FrameSet":
        data, base = read_json(path), Path(path).parent
        resolve = lambda p: None if p is None else Path(os.path.normpath(base / p))  # noqa: E731
        frames = tuple(
            Frame(
                int(f["frame_id"]),
                f["name"],
                resolve(f["image_path"]),
                int(f["width_px"]),
                int(f["height_px"]),
                resolve(f["mask_path"]),
                f["time_s"],
                Camera.from_dict(f["camera"]) if f["camera"] else None,
                Rigid3.from_matrix(np.array(f["cam_from_world_mm"])) if f["cam_from_world_mm"] else None,
                tuple(f["pixel_spacing_mm"]) if f["pixel_spacing_mm"] else None,
            )
            for f in data["frames"]
        )
        dropped = tuple(DroppedFrame(int(i), n, r) for i, n, r in data["dropped"])
        return FrameSet(
            frames, data["source"], data["ordered"], dropped, resolve(data["truth_path"]), tuple(data["notes"])
        )

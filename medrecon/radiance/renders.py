# SPDX-License-Identifier: Apache-2.0
"""What the render stage wrote, typed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medrecon.errors import InputError
from medrecon.types.storage import read_json, read_npz, write_json

if TYPE_CHECKING:
    from medrecon.radiance.view_maps import ViewMaps

SCHEMA = 1
NAME = "renders.json"


@dataclass(frozen=True, slots=True)
class RenderedView:
    """One view at the pose of a frame.

    Attributes:
        frame_id: the frame whose camera it was rendered from.
        rgb_path: uint8 PNG; its size is that of the rendering, at most that of the picture.
        depth_path: npz with ``depth_sfm`` float32 [H, W], z-depth in reconstruction units, 0 = nothing hit.
        opacity_path: 8-bit PNG, 255 = opaque.
        measured_from_px: first column that counts in a figure of the colours; from those left of it the view has its
            appearance code.
        maps_path: npz with median depth, its uncertainty and normals (view_maps.py), None where they were not wanted or
            the renderer knows none. The same as PNG lie beside its folder.
    """

    frame_id: int
    rgb_path: Path
    depth_path: Path
    opacity_path: Path
    measured_from_px: int = 0
    maps_path: Path | None = None

    def load_rgb(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        from medrecon.images import read_rgb

        return read_rgb(self.rgb_path)

    def load_depth_sfm(self) -> np.ndarray:
        """float32 [H, W]; 0 = nothing hit."""
        return read_npz(self.depth_path)["depth_sfm"]

    def load_opacity(self) -> np.ndarray:
        """float32 [H, W] in 0..1."""
        from medrecon.images import read_any

        return read_any(self.opacity_path).astype(np.float32) / 255

    def load_maps(self) -> "ViewMaps":
        """Raises InputError when there are none."""
        from medrecon.radiance.view_maps import ViewMaps

        if self.maps_path is None:
            raise InputError(f"view {self.frame_id} has no maps", "rerun with -o render.maps=true")
        return ViewMaps.load(self.maps_path)


@dataclass(frozen=True, slots=True)
class DepthVideo:
    """The median depth along the path, in the colours of depth_colours.py.

    Attributes:
        path: mp4, frame by frame the camera of the path video.
        near_sfm, far_sfm: z-depths in reconstruction units at both ends of the colours, the same in all frames.
    """

    path: Path
    near_sfm: float
    far_sfm: float


@dataclass(frozen=True, slots=True)
class Renders:
    """Attributes:
    renderer: name of the component that made them.
    appearance: in words, which appearance code the views got; "none" where the renderer has none. Stands beside every
        figure measured on them.
    views: held-out views, by frame id.
    path_video: mp4, None when there is none.
    png_step_sfm: reconstruction units per grey level of the 16-bit pictures of median depth and spread.
    depth_video: of the path of ``path_video``, None when there is none.
    poses: in words, where the views' poses are from, if not from structure from motion.
    """

    renderer: str
    appearance: str
    views: tuple[RenderedView, ...]
    path_video: Path | None = None
    png_step_sfm: float | None = None
    depth_video: DepthVideo | None = None
    poses: str = ""

    @property
    def words(self) -> str:
        """What stands beside every figure measured on the views."""
        return f"appearance {self.appearance}" + (f", poses {self.poses}" if self.poses else "")

    def save(self, folder: Path) -> None:
        """Writes renders.json with paths relative to the folder."""
        rel = lambda p: p.relative_to(folder).as_posix()  # noqa: E731
        depth = self.depth_video
        data = {
            "schema": SCHEMA,
            "renderer": self.renderer,
            "appearance": self.appearance,
            "views": [
                {
                    "frame_id": v.frame_id,
                    "rgb": rel(v.rgb_path),
                    "depth": rel(v.depth_path),
                    "opacity": rel(v.opacity_path),
                    "measured_from_px": v.measured_from_px,
                    "maps": rel(v.maps_path) if v.maps_path else None,
                }
                for v in self.views
            ],
            "path_video": rel(self.path_video) if self.path_video else None,
            "png_step_sfm": self.png_step_sfm,
            "depth_video": depth and {"file": rel(depth.path), "near_sfm": depth.near_sfm, "far_sfm": depth.far_sfm},
            "poses": self.poses,
        }
        write_json(folder / NAME, data)

    @staticmethod
    def load(folder: Path) -> "Renders":
        """Raises InputError when the folder holds no renders."""
        folder = Path(folder)
        data = read_json(folder / NAME)
        try:
            if data["schema"] != SCHEMA:
                raise ValueError(f"schema {data['schema']}, this version reads {SCHEMA}")
            views = tuple(
                RenderedView(
                    int(v["frame_id"]),
                    folder / v["rgb"],
                    folder / v["depth"],
                    folder / v["opacity"],
                    int(v.get("measured_from_px", 0)),
                    folder / v["maps"] if v.get("maps") else None,
                )
                for v in data["views"]
            )
            video = folder / data["path_video"] if data["path_video"] else None
            depth = data.get("depth_video")
            if depth is not None:
                depth = DepthVideo(folder / depth["file"], float(depth["near_sfm"]), float(depth["far_sfm"]))
            step, poses = data.get("png_step_sfm"), str(data.get("poses", ""))
            return Renders(str(data["renderer"]), str(data["appearance"]), views, video, step, depth, poses)
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(f"{folder / NAME} does not describe renders: {e}", "rerun with --force render") from e

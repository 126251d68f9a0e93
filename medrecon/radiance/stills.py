# SPDX-License-Identifier: Apache-2.0
"""Pictures of a finished run's field from poses of one's own, or along a path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medrecon.errors import InputError
from medrecon.images import read_rgb, write_png
from medrecon.ingest.poses_file import read_poses
from medrecon.progress import Progress
from medrecon.radiance.field_files import load_field
from medrecon.radiance.paths import path_poses
from medrecon.radiance.pictures import training_camera
from medrecon.radiance.rendering import nearest_frame, render_image, video_camera
from medrecon.radiance.scene import Scene
from medrecon.radiance.video import write_mp4
from medrecon.radiance.view_maps import render_maps
from medrecon.runfolder import RunFolder
from medrecon.types import Camera, Rigid3
from medrecon.types.storage import write_json, write_npz


@dataclass(frozen=True, slots=True)
class Still:
    """One picture to make: its file name without ending, its camera, and its pose in the reconstruction's frame."""

    name: str
    camera: Camera
    cam_from_sfm: Rigid3


def stills_at(run: RunFolder, scene: Scene, path: Path, size_px: int) -> list[Still]:
    """The poses of a transforms.json, in the file's order.

    The poses stand in the frame of the run's own exports: millimetres where its scale is known, else its own unit.
    Entries without a focal length get the first training camera's intrinsics.

    Args:
        size_px: longer side of the pictures, which are reduced to it.

    Raises InputError: the file is no transforms.json, or names no pose.
    """
    known = read_poses(path, 1.0)
    if not known.poses:
        raise InputError(f"{path.name} holds no poses", "it needs frames: [{file_path, transform_matrix}, ...]")
    usual = run.sparse.cameras[scene.train_ids[0]]
    sfm_from_metric = run.sparse.scale.metric_from_sfm.inverse()
    out = []
    for name, pose in known.poses.items():
        keys = known.intrinsics[name]
        size = (int(keys.get("w", usual.width_px)), int(keys.get("h", usual.height_px)))
        camera = known.of(Path(name), *size)["camera"] or usual
        out.append(Still(name, training_camera(camera, size_px), sfm_from_metric.transform_pose(pose)))
    return out


def stills_along(scene: Scene, path: str, frames: int, size_px: int) -> list[Still]:
    """``frames`` poses along ``path``, of `path_poses`."""
    camera = video_camera(scene.cameras[scene.train_ids[0]], size_px)
    return [Still(f"{k:04d}", camera, pose) for k, pose in enumerate(path_poses(scene, path, frames))]


def render_stills(
    run: RunFolder, out_dir: Path, progress: Progress, *, poses: Path | None = None, path: str = "auto",
    frames: int = 48, size_px: int = 800, appearance: str = "mean", maps: bool = True, fps: int = 12,
    device: str = "cpu",
) -> list[Path]:  # fmt: skip
    """Renders a finished run from ``poses`` (a transforms.json, see ``stills_at``) or, without, along a path.

    Writes pictures/NAME.png, depth/NAME.npz and opacity/NAME.png for each pose, the maps of view_maps.py where wanted,
    stills.json (units and names), and stills.mp4 of all pictures in order where there are several of one size.

    Args:
        appearance: "zero", "mean", or "nearest" in place.

    Returns:
        the pictures' paths, in order.
    """
    renderer, scene = load_field(run, device)
    stills = stills_at(run, scene, poses, size_px) if poses else stills_along(scene, path, frames, size_px)
    near = min(n for n, _ in scene.near_far.values())
    farthest = max(f for _, f in scene.near_far.values())
    corners = np.stack([scene.bounds_min, scene.bounds_max])
    corners = np.stack(np.meshgrid(*corners.T, indexing="ij"), -1).reshape(-1, 3)
    out_dir = Path(out_dir)
    progress.begin(len(stills), "pictures")
    paths, step = [], None
    for still in stills:
        # A camera farther away than those of the training still sees the scene's far end.
        depths = scene.cam_from_field(still.cam_from_sfm).apply(corners)[:, 2]
        far = max(farthest, float(depths.max()))
        step = step or far / scene.field_from_sfm.scale / 65535
        frame_id = nearest_frame(scene, still.cam_from_sfm) if appearance == "nearest" else -1
        code = "zero" if appearance == "zero" else "mean"
        rgb, depth, opacity = render_image(
            renderer, scene, still.camera, still.cam_from_sfm, (near, far), frame_id, code, device=device
        )
        paths.append(out_dir / "pictures" / f"{still.name}.png")
        write_png(paths[-1], rgb)
        write_npz(out_dir / "depth" / f"{still.name}.npz", {"depth_sfm": depth})
        write_png(out_dir / "opacity" / f"{still.name}.png", (opacity.clip(0, 1) * 255).round().astype(np.uint8))
        if maps:
            found = render_maps(renderer, scene, still.camera, still.cam_from_sfm, (near, far), device=device)
            if found is not None:
                found.save(out_dir, still.name, step)
        progress.advance(1)
    scale = run.sparse.scale
    facts = {
        "appearance": appearance if renderer.appearance_size else "none", "png_step_sfm": step, "scale": scale.stamp,
        "unit_per_sfm": scale.metric_from_sfm.scale, "pictures": [s.name for s in stills],
    }  # fmt: skip
    write_json(out_dir / "stills.json", facts)
    sizes = {(s.camera.width_px, s.camera.height_px) for s in stills}
    if len(stills) > 1 and len(sizes) == 1:
        w, h = (max(2, side - side % 2) for side in sizes.pop())  # codecs want even sides
        if write_mp4(out_dir / "stills.mp4", (read_rgb(p)[:h, :w] for p in paths), (w, h), fps) is None:
            progress.say("no video: this OpenCV build writes none of the mp4 codecs that were tried")
    return paths

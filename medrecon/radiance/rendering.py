# SPDX-License-Identifier: Apache-2.0
"""The render stage: held-out views with depth, opacity and maps of their geometry, and a video along a path."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medrecon.images import write_png
from medrecon.progress import Progress
from medrecon.radiance.depth_colours import depth_picture, depth_range
from medrecon.radiance.field_files import load_field
from medrecon.radiance.paths import path_poses
from medrecon.radiance.pictures import training_camera
from medrecon.radiance.renderer import Renderer
from medrecon.radiance.renders import DepthVideo, RenderedView, Renders
from medrecon.radiance.scene import Scene
from medrecon.radiance.settings import RenderConfig
from medrecon.radiance.video import write_mp4
from medrecon.radiance.view_appearance import HeldoutAppearance
from medrecon.radiance.view_maps import HIT, render_maps
from medrecon.runfolder import RunFolder
from medrecon.types import Camera, RayBatch, RenderOut, Rigid3
from medrecon.types.storage import write_npz

__all__ = ["RenderConfig", "render_image", "render_views"]


@torch.inference_mode()
def render_rays(
    renderer: Renderer, rays: RayBatch, appearance: str | torch.Tensor | None, chunk: int, device: str
) -> RenderOut:
    """Renders in chunks; the result lies on the CPU. Memory is bounded by ``chunk`` rays plus the result."""
    parts = [
        renderer.render_basic(rays[i : i + chunk].to(device), appearance) for i in range(0, max(len(rays), 1), chunk)
    ]
    whole = lambda name: torch.cat([getattr(p, name).cpu() for p in parts])  # noqa: E731
    return RenderOut(whole("rgb"), whole("depth"), whole("opacity"))


def render_image(
    renderer: Renderer, scene: Scene, camera: Camera, cam_from_sfm: Rigid3, near_far: tuple[float, float],
    frame_id: int, appearance: str | torch.Tensor | None = "mean", chunk: int = 8192, device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """One view.

    Returns:
        rgb uint8 [H, W, 3]; depth float32 [H, W], z-depth in reconstruction units, 0 where nothing is hit; opacity
        float32 [H, W].
    """
    h, w = camera.height_px, camera.width_px
    rays = scene.camera_rays(camera, cam_from_sfm, near_far, frame_id)
    out = render_rays(renderer, rays, appearance, chunk, device)
    rgb = (out.rgb.clamp(0, 1) * 255).round().to(torch.uint8).view(h, w, 3).numpy()
    opacity = out.opacity.view(h, w).numpy()
    depth = out.depth.view(h, w).numpy() / scene.field_from_sfm.scale
    return rgb, np.where(opacity >= HIT, depth, 0).astype(np.float32), opacity.astype(np.float32)


def render_views(run: RunFolder, render: RenderConfig, out_dir: Path, device: str, progress: Progress) -> None:
    """Writes renders.json, heldout/, depth/, opacity/, path.mp4, and path_depth.mp4, maps/, median/, spread/, normals/
    where wanted.

    Views that a killed run left complete in ``out_dir`` are kept.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    renderer, scene = load_field(run, device)
    sparse = run.sparse
    heldout = HeldoutAppearance(render.appearance, renderer, scene, run.frames)
    progress.begin(len(scene.heldout_ids) + render.path_frames * (1 + render.maps), "views")
    png_step = max(f for _, f in scene.near_far.values()) / scene.field_from_sfm.scale / 65535
    views = []
    for i in scene.heldout_ids:
        name = f"{i:06d}"
        camera = training_camera(sparse.cameras[i], render.max_size_px)
        view = RenderedView(
            i,
            out_dir / "heldout" / f"{name}.png",
            out_dir / "depth" / f"{name}.npz",
            out_dir / "opacity" / f"{name}.png",
            heldout.measured_from_px(camera),
        )
        if render.maps:
            maps_path = out_dir / "maps" / f"{name}.npz"
            if not maps_path.is_file():
                maps = render_maps(
                    renderer, scene, camera, scene.cam_from_sfm[i], scene.near_far[i], render.rays_per_chunk, device
                )
                if maps is not None:
                    maps.save(out_dir, name, png_step)
            view = replace(view, maps_path=maps_path if maps_path.is_file() else None)
        if not all(p.is_file() for p in (view.rgb_path, view.depth_path, view.opacity_path)):
            look = heldout.of(i, camera)
            rgb, depth, opacity = render_image(
                renderer, scene, camera, scene.cam_from_sfm[i], scene.near_far[i], look.frame_id, look.appearance,
                render.rays_per_chunk, device,
            )  # fmt: skip
            write_npz(view.depth_path, {"depth_sfm": depth})
            write_png(view.opacity_path, (opacity.clip(0, 1) * 255).round().astype(np.uint8))
            write_png(view.rgb_path, rgb)
        views.append(view)
        progress.advance(1)
    video, depth_video = _write_videos(renderer, scene, render, out_dir, device, progress)
    poses = (run.pose_refinement or {}).get("heldout", "")
    Renders(renderer.name, heldout.words, tuple(views), video, png_step, depth_video, poses).save(out_dir)


def _write_videos(
    renderer: Renderer, scene: Scene, render: RenderConfig, out_dir: Path, device: str, progress: Progress
) -> tuple[Path | None, DepthVideo | None]:
    if not render.path_frames or len(scene.train_ids) < 2:
        return None, None
    poses = path_poses(scene, render.path, render.path_frames)
    camera = video_camera(scene.cameras[scene.train_ids[0]], render.path_size_px)
    near_far = min(n for n, _ in scene.near_far.values()), max(f for _, f in scene.near_far.values())
    chunk = render.rays_per_chunk

    def colours() -> Iterator[np.ndarray]:
        for pose in poses:
            # No picture was taken from here: what a mode says of time is said of places, and there is nothing to fit.
            frame_id = nearest_frame(scene, pose) if render.appearance == "nearest" else -1
            code = "zero" if render.appearance == "zero" else "mean"
            yield render_image(renderer, scene, camera, pose, near_far, frame_id, code, chunk, device)[0]

    def median_depths(camera: Camera) -> Iterator[np.ndarray]:
        for pose in poses:
            maps = render_maps(renderer, scene, camera, pose, near_far, chunk, device)
            if maps is None:
                return
            yield maps.median_sfm

    def written(path: Path, frames: Iterable[np.ndarray]) -> bool:
        if path.is_file():  # left by a killed run
            progress.advance(render.path_frames)
            return True
        if write_mp4(path, _told(frames, progress), (camera.width_px, camera.height_px), render.path_fps) is None:
            progress.say(f"no {path.name}: this OpenCV build writes none of the mp4 codecs that were tried")
            return False
        return True

    path, depth_path = out_dir / "path.mp4", out_dir / "path_depth.mp4"
    video = path if written(path, colours()) else None
    # One range for all frames, known before the first is written: small frames of the whole path tell it.
    small = list(median_depths(video_camera(camera, max(16, render.path_size_px // 4)))) if render.maps else []
    if not small:
        progress.advance(render.path_frames * render.maps)  # the renderer knows no median depth
        return video, None
    near, far = depth_range(np.stack(small))
    pictures = (depth_picture(depth, near, far) for depth in median_depths(camera))
    return video, DepthVideo(depth_path, near, far) if written(depth_path, pictures) else None


def _told(frames: Iterable[np.ndarray], progress: Progress) -> Iterator[np.ndarray]:
    for frame in frames:
        progress.advance(1)
        yield frame


def video_camera(camera: Camera, size_px: int) -> Camera:
    """Pinhole of the same field of view with even sides, as video codecs want them."""
    factor = size_px / max(camera.width_px, camera.height_px)
    w, h = (max(2, 2 * math.floor(side * factor / 2)) for side in (camera.width_px, camera.height_px))
    scaled = camera.scaled(w, h)
    return Camera("PINHOLE", w, h, (*scaled.focal_px, *scaled.principal_px))


def nearest_frame(scene: Scene, pose: Rigid3) -> int:
    distance = {i: np.linalg.norm(scene.cam_from_sfm[i].center - pose.center) for i in scene.train_ids}
    return min(distance, key=distance.get)

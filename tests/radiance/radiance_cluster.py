# SPDX-License-Identifier: Apache-2.0
"""Patterned balls before and beside each other in closed form: a scene whose depths tell where a camera stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from radiance_ball import look_at

from medrecon.images import write_png
from medrecon.types import Camera, Frame, FrameSet, Rigid3, SparseModel

DISTANCE = 40.0
CENTRES = np.array([[6, 0, 0], [-6, 2, 1], [0, 6, -3], [1, -6, 3], [0, 0, 7], [-1, 1, -7]], float)
RADII = np.array([3.5, 3.0, 3.0, 3.5, 2.5, 3.0])


def patterned(normal: np.ndarray) -> np.ndarray:
    """Colours in 0..1 of a ball's places [..., 3], by their normals."""
    return 0.5 + 0.35 * np.sin(4 * normal + 2 * normal[..., [1, 2, 0]])


def cameras(n: int) -> list[Rigid3]:
    """Over a cap of 50 degrees to all sides, so that every place is seen by many (a sunflower's seeds)."""
    out = []
    for k in range(n):
        a, off = 2.4 * k, np.radians(50) * np.sqrt((k + 0.5) / n)
        way = np.array([np.cos(off), np.sin(off) * np.cos(a), np.sin(off) * np.sin(a)])
        out.append(look_at(DISTANCE * way, np.zeros(3)))
    return out


def trace(camera: Camera, pose: Rigid3, supersample: int = 3) -> np.ndarray:
    """rgb uint8 [H, W, 3], mean over a pixel; black where nothing is hit."""
    h, w, s = camera.height_px, camera.width_px, supersample
    u, v = np.meshgrid((np.arange(w * s) + 0.5) / s, (np.arange(h * s) + 0.5) / s)
    d = camera.unproject(np.stack([u, v], -1)) @ pose.rotation
    rgb, nearest = np.zeros(d.shape), np.full(d.shape[:2], np.inf)
    for centre, radius in zip(CENTRES, RADII):
        o = pose.center - centre
        a, b, c = (d * d).sum(-1), d @ o, o @ o - radius**2
        under = b * b - a * c
        t = np.where(under > 0, (-b - np.sqrt(np.maximum(under, 0))) / a, np.inf)
        front = t < nearest
        normal = (o + np.where(front, t, 0)[..., None] * d) / radius
        rgb, nearest = np.where(front[..., None], patterned(normal), rgb), np.minimum(t, nearest)
    return (rgb.reshape(h, s, w, s, 3).mean((1, 3)) * 255).round().astype(np.uint8)


def cluster(folder: Path, n: int, size: int) -> tuple[FrameSet, SparseModel]:
    """Frames on disk and a sparse model with the true poses, whose points only say how large the scene is."""
    camera = Camera("SIMPLE_PINHOLE", size, size, (1.8 * size, size / 2, size / 2))
    poses, frames = dict(enumerate(cameras(n))), []
    for i, pose in poses.items():
        path = folder / "images" / f"{i:06d}.png"
        write_png(path, trace(camera, pose))
        frames.append(Frame(i, f"{i:06d}", path, size, size))
    normals = np.random.default_rng(0).normal(size=(300, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    points = CENTRES[np.arange(300) % len(CENTRES)] + RADII[np.arange(300) % len(CENTRES), None] * normals
    ids = np.array(sorted(poses), np.int64)
    sparse = SparseModel(
        cameras=dict.fromkeys(poses, camera),
        cam_from_world=poses,
        points=points,
        colors=np.full((300, 3), 128, np.uint8),
        errors_px=np.full(300, 0.3),
        track_frame_ids=np.tile(ids[:3], 300),
        track_keypoint_idx=np.zeros(900, np.int32),
        track_offsets=np.arange(0, 901, 3),
    )
    return FrameSet(tuple(frames), "cluster"), sparse.validate()

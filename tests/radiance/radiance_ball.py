# SPDX-License-Identifier: Apache-2.0
"""A coloured ball before blackness in closed form: the oracle scene of the radiance tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medrecon.images import write_png
from medrecon.types import Camera, Frame, FrameSet, Rigid3, SparseModel

RADIUS, DISTANCE = 10.0, 40.0
CENTRE = np.array([3.0, -2.0, 5.0])


def look_at(at: np.ndarray, target: np.ndarray) -> Rigid3:
    z = (target - at) / np.linalg.norm(target - at)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    return Rigid3(rotation, -rotation @ at)


def cameras(n: int) -> list[Rigid3]:
    out = []
    for k in range(n):
        a, e = 2 * np.pi * k / n, 0.5 * np.sin(1.7 * k)
        out.append(
            look_at(CENTRE + DISTANCE * np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)]), CENTRE)
        )
    return out


def plain(normal):
    """Colours in 0..1 of the ball's places [..., 3], by their normals."""
    return 0.5 + 0.35 * normal


def trace(camera: Camera, pose: Rigid3, supersample: int = 3, colour=plain) -> tuple[np.ndarray, np.ndarray]:
    """(rgb uint8 [H, W, 3], z-depth float [H, W] of the pixel centre, 0 where the ball is missed)."""

    def hit(u, v):
        d = camera.unproject(np.stack([u, v], -1)) @ pose.rotation
        o = pose.center - CENTRE
        a, b, c = (d * d).sum(-1), d @ o, o @ o - RADIUS**2
        under = b * b - a * c
        t = np.where(under > 0, (-b - np.sqrt(np.maximum(under, 0))) / a, 0.0)
        normal = (o + t[..., None] * d) / RADIUS
        return t, np.where((under > 0)[..., None], colour(normal), 0.0)

    h, w, s = camera.height_px, camera.width_px, supersample
    u, v = np.meshgrid((np.arange(w * s) + 0.5) / s, (np.arange(h * s) + 0.5) / s)
    rgb = hit(u, v)[1].reshape(h, s, w, s, 3).mean((1, 3))
    u, v = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    return (rgb * 255).round().astype(np.uint8), hit(u, v)[0]


def ball(
    folder: Path, n: int = 8, size: int = 24, masks: dict[int, np.ndarray] | None = None, colour=plain
) -> tuple[FrameSet, SparseModel]:
    """Frames on disk and the sparse model a perfect structure from motion would give. Ids begin at 10, by threes."""
    camera = Camera("SIMPLE_PINHOLE", size, size, (1.5 * size, size / 2, size / 2))
    ids = [10 + 3 * k for k in range(n)]
    poses = dict(zip(ids, cameras(n)))
    frames = []
    for i in ids:
        path = folder / "images" / f"{i:06d}.png"
        write_png(path, trace(camera, poses[i], colour=colour)[0])
        mask_path = None
        if masks and i in masks:
            mask_path = folder / "masks" / f"{i:06d}.png"
            write_png(mask_path, masks[i])
        frames.append(Frame(i, f"{i:06d}", path, size, size, mask_path))
    normals = np.random.default_rng(0).normal(size=(400, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    points, seen = CENTRE + RADIUS * normals, []
    for p, normal in zip(points, normals):
        seen.append([i for i in ids if (poses[i].center - p) @ normal > 0.3 * DISTANCE])
    keep = [k for k in range(len(points)) if len(seen[k]) >= 2]
    tracks = [seen[k] for k in keep]
    observations = np.concatenate(tracks).astype(np.int64)
    sparse = SparseModel(
        cameras=dict.fromkeys(ids, camera),
        cam_from_world=poses,
        points=points[keep],
        colors=np.full((len(keep), 3), 128, np.uint8),
        errors_px=np.full(len(keep), 0.3),
        track_frame_ids=observations,
        track_keypoint_idx=np.zeros(len(observations), np.int32),
        track_offsets=np.concatenate([[0], np.cumsum([len(t) for t in tracks])]),
    )
    return FrameSet(tuple(frames), "ball"), sparse.validate()

# SPDX-License-Identifier: Apache-2.0
"""Small exact data made by code: textured views with known cameras, features with known matches, frames on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medrecon.types import Camera, Features, Frame, FrameSet, Rigid3, Sim3

if TYPE_CHECKING:
    from medrecon.radiance.scene import Scene


def texture(points: np.ndarray, seed: int = 0, cell: float = 0.12) -> np.ndarray:
    """A smooth random colour for every point of space.

    Args:
        points: float [..., 3], any unit.
        seed: another seed is another texture.
        cell: size of the coarsest detail, in the unit of the points; the finest is a quarter of it.

    Returns:
        float64 [..., 3] in 0..1.
    """
    table = np.random.default_rng(seed).random((64, 64, 64, 3))
    out = np.zeros(np.shape(points))
    for octave, weight in enumerate((0.5, 0.3, 0.2)):
        p = np.asarray(points, np.float64) * 2**octave / cell + 17.3 * octave
        low = np.floor(p).astype(np.int64)
        f = p - low
        f = f * f * (3 - 2 * f)
        for corner in np.ndindex(2, 2, 2):
            share = np.prod(np.where(corner, f, 1 - f), axis=-1, keepdims=True)
            i, j, k = np.moveaxis((low + corner) % 64, -1, 0)
            out += weight * share * table[i, j, k]
    return np.clip((out - 0.5) * 2.2 + 0.5, 0, 1)


def texture_image(height_px: int, width_px: int, seed: int = 0, cell_px: float = 24.0) -> np.ndarray:
    """uint8 [H, W, 3] picture rich in blobs and corners."""
    y, x = np.mgrid[:height_px, :width_px]
    return np.round(255 * texture(np.stack([x, y, np.zeros_like(x)], -1) / cell_px, seed, 1.0)).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Views:
    """Pictures of a textured body of which everything is known.

    Attributes:
        images: uint8 [V, H, W, 3].
        depths_mm: float64 [V, H, W] z-depth, 0 where the ray hits nothing.
        camera: the camera of all views.
        cam_from_world_mm: one pose per view.
        shape: "plane" (z = 0) or "sphere" (radius 10 mm about the origin).
    """

    images: np.ndarray
    depths_mm: np.ndarray
    camera: Camera
    cam_from_world_mm: tuple[Rigid3, ...]
    shape: str

    def points(self, view: int, xy_px: np.ndarray) -> np.ndarray:
        """Pixels float [N, 2] of a view -> world points float64 [N, 3] in mm; NaN where the ray hits nothing."""
        pose = self.cam_from_world_mm[view].inverse()
        return _hit(self.shape, pose, self.camera.unproject(xy_px))[0]

    def correspond(self, a: int, b: int, xy_px: np.ndarray) -> np.ndarray:
        """Where pixels float [N, 2] of view a appear in view b; NaN where they are hidden or outside."""
        world = self.points(a, xy_px)
        xy = self.camera.project(self.cam_from_world_mm[b].apply(world))
        back = self.points(b, xy)
        w, h = self.camera.width_px, self.camera.height_px
        inside = (xy[:, 0] > 0) & (xy[:, 1] > 0) & (xy[:, 0] < w) & (xy[:, 1] < h)
        seen = inside & (np.linalg.norm(back - world, axis=-1) < 1e-6)
        return np.where(seen[:, None], xy, np.nan)


def _hit(shape: str, world_from_cam: Rigid3, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First hit in the world [..., 3] (NaN: none) and its z-depth [...] (0: none) of rays with unit z."""
    origin = world_from_cam.translation
    d = directions @ world_from_cam.rotation.T
    if shape == "plane":
        t = -origin[2] / np.where(np.abs(d[..., 2]) > 1e-12, d[..., 2], np.nan)
        t = np.where(np.abs(origin + t[..., None] * d)[..., :2].max(-1) <= 15.0, t, np.nan)
    else:
        a, b, c = (d * d).sum(-1), (d * origin).sum(-1), origin @ origin - 100.0
        root = b * b - a * c
        t = (-b - np.sqrt(np.where(root >= 0, root, np.nan))) / a
    t = np.where(t > 0, t, np.nan)
    return origin + t[..., None] * d, np.nan_to_num(t, nan=0.0)


def _look_at(center: np.ndarray, target: np.ndarray) -> Rigid3:
    z = (target - center) / np.linalg.norm(target - center)
    x = np.cross(np.array([0.0, 1.0, 0.0]) if abs(z[1]) < 0.9 else np.array([1.0, 0.0, 0.0]), z)
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    return Rigid3(rotation, -rotation @ center)


def views(shape: str = "sphere", n: int = 3, width_px: int = 96, height_px: int = 72, seed: int = 0) -> Views:
    """Pictures of a textured plane or sphere on an arc of cameras 40 mm away, 12 degrees apart.

    Args:
        shape: "plane" or "sphere".
        n: number of views.
        width_px, height_px: picture size.
        seed: of the texture.
    """
    if shape not in ("plane", "sphere"):
        raise ValueError(f"shape must be 'plane' or 'sphere', got {shape!r}")
    f = 1.3 * max(width_px, height_px)
    camera = Camera("PINHOLE", width_px, height_px, (f, f, width_px / 2, height_px / 2))
    angles = np.radians(12.0) * (np.arange(n) - (n - 1) / 2)
    poses = tuple(_look_at(40.0 * np.array([np.sin(a), 0.15 * np.sin(2 * a), -np.cos(a)]), np.zeros(3)) for a in angles)
    y, x = np.mgrid[:height_px, :width_px] + 0.5
    directions = camera.unproject(np.stack([x, y], -1))
    images, depths = [], []
    for pose in poses:
        world, depth = _hit(shape, pose.inverse(), directions)
        rgb = np.where(depth[..., None] > 0, texture(np.nan_to_num(world), seed, 2.0), 0.0)
        images.append(np.round(255 * rgb).astype(np.uint8))
        depths.append(depth)
    return Views(np.stack(images), np.stack(depths), camera, poses, shape)


def frame_set(folder: Path, body: Views, ids: list[int] | None = None, known_poses: bool = False) -> FrameSet:
    """Write the views as PNG below ``folder`` and return them as a valid FrameSet.

    Args:
        folder: pictures go to ``folder/images``.
        body: the views.
        ids: frame ids, in order; 0, 1, 2... when None.
        known_poses: also give the frames their camera and pose, as a tracker would.
    """
    from medrecon.images import write_png

    frames = []
    for i, image in zip(ids if ids is not None else range(len(body.images)), body.images):
        path = Path(folder) / "images" / f"{i:06d}.png"
        write_png(path, image)
        pose = body.cam_from_world_mm[len(frames)] if known_poses else None
        frames.append(
            Frame(
                i,
                f"{i:06d}",
                path,
                image.shape[1],
                image.shape[0],
                camera=body.camera if known_poses else None,
                cam_from_world_mm=pose,
            )
        )
    return FrameSet(tuple(frames), f"phantom {body.shape}")


@dataclass(frozen=True, slots=True)
class FeaturePair:
    """Two sets of features and the truth between them.

    Attributes:
        a, b: features.
        true_idx: int32 [M, 2], every correct match.
    """

    a: Features
    b: Features
    true_idx: np.ndarray


def feature_pair(
    n: int = 200,
    n_extra: int = 60,
    dimension: int = 128,
    metric: str = "l2",
    extractor: str = "sift",
    noise: float = 0.15,
    seed: int = 0,
) -> FeaturePair:
    """Features of a plane seen twice: ``n`` of them correspond, ``n_extra`` on each side have no partner.

    Args:
        n, n_extra: numbers of keypoints.
        dimension: length of a descriptor; bytes of it for "hamming".
        metric: "l2" (unit vectors) or "hamming".
        extractor: name written into the features.
        noise: length of the disturbance of a descriptor relative to its own; share of flipped bits / 4 for "hamming".
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    size = (640, 480)
    xy = rng.uniform((60, 60), (580, 420), (n, 2))
    c, s = np.cos(0.15), np.sin(0.15)
    moved = (xy - 320) @ np.array([[c, s], [-s, c]]) * 1.05 + 320 + (12, -6)
    keep = (moved > 1).all(1) & (moved[:, 0] < size[0] - 1) & (moved[:, 1] < size[1] - 1)
    xy, moved = xy[keep], moved[keep]
    n = len(xy)

    if metric == "l2":
        base = rng.normal(size=(n + 2 * n_extra, dimension))
        other = base[:n] + noise * rng.normal(size=(n, dimension))
        unit = lambda d: (d / np.linalg.norm(d, axis=1, keepdims=True)).astype(np.float32)  # noqa: E731
        d_a, d_b = unit(base[: n + n_extra]), unit(np.concatenate([other, base[n + n_extra :]]))
    else:
        base = rng.integers(0, 256, (n + 2 * n_extra, dimension), np.uint8)
        flips = np.packbits(rng.random((n, dimension * 8)) < noise / 4, axis=1)
        d_a, d_b = base[: n + n_extra], np.concatenate([base[:n] ^ flips, base[n + n_extra :]])

    def side(points: np.ndarray, descriptors: np.ndarray) -> tuple[Features, np.ndarray]:
        points = np.concatenate([points, rng.uniform((1, 1), (639, 479), (n_extra, 2))])
        order = rng.permutation(len(points))
        scores, scale, angle = rng.random(len(points)), rng.uniform(4, 12, len(points)), rng.uniform(-3, 3, len(points))
        features = Features(
            points[order].astype(np.float32),
            scores.astype(np.float32),
            np.ascontiguousarray(descriptors[order]),
            metric,
            size,
            extractor,
            scale.astype(np.float32),
            angle.astype(np.float32),
        )
        return features.validate(), np.argsort(order)[:n]

    (a, where_a), (b, where_b) = side(xy, d_a), side(moved, d_b)
    return FeaturePair(a, b, np.stack([where_a, where_b], 1).astype(np.int32))


def take(features: Features, rows: np.ndarray) -> Features:
    """The same features with only these rows, in this order."""
    pick = lambda x: None if x is None else x[rows]  # noqa: E731
    return Features(
        features.xy[rows],
        features.scores[rows],
        features.descriptors[rows],
        features.metric,
        features.image_size,
        features.extractor,
        pick(features.scale),
        pick(features.angle),
    )


def scene(n: int = 4, width_px: int = 24, height_px: int = 18) -> "Scene":
    """A radiance scene round the phantom sphere: the last view is held out."""
    from medrecon.radiance.scene import Scene

    body = views("sphere", n, width_px, height_px)
    field_from_sfm = Sim3(scale=1 / 14.0)
    return Scene(
        field_from_sfm=field_from_sfm,
        bounds_min=np.full(3, -1.0),
        bounds_max=np.full(3, 1.0),
        train_ids=list(range(n - 1)),
        heldout_ids=[n - 1],
        cameras={i: body.camera for i in range(n)},
        cam_from_sfm=dict(enumerate(body.cam_from_world_mm)),
        near_far={i: (28.0 / 14.0, 52.0 / 14.0) for i in range(n)},
        background="black",
    )

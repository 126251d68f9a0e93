# SPDX-License-Identifier: Apache-2.0
"""The scene a field is trained on: where it lies, which pictures look at it, what is known to be empty."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from medrecon.errors import InputError
from medrecon.types import Camera, FrameSet, PixelView, RayBatch, Rigid3, Sim3, SparseModel
from medrecon.types.storage import read_json, write_json

if TYPE_CHECKING:
    from medrecon.radiance.settings import TrainingConfig

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Scene:
    """Geometry of the training problem, in the normalised *field* frame: the content lies in the cube [-1, 1]^3.

    Attributes:
        field_from_sfm: takes reconstruction coordinates to the field frame.
        bounds_min, bounds_max: float64 [3], box that holds all matter, field frame.
        train_ids, heldout_ids: frame ids; held-out ones are never trained on.
        cameras: intrinsics at training resolution, by frame_id.
        cam_from_sfm: poses by frame_id, in reconstruction units.
        near_far: by frame_id, range of z-depth that is searched, in field units.
        background: "black" where the pictures show a truly black background (a ray may pass through), else "none".
        occupied: bool [G, G, G] over the bounds (x, y, z), False = known to be empty; None when nothing is known.
        unbounded: matter may also lie outside the bounds; renderers contract space there (radiance.contraction).
    """

    field_from_sfm: Sim3
    bounds_min: np.ndarray
    bounds_max: np.ndarray
    train_ids: list[int]
    heldout_ids: list[int]
    cameras: dict[int, Camera]
    cam_from_sfm: dict[int, Rigid3]
    near_far: dict[int, tuple[float, float]]
    background: str = "none"
    occupied: np.ndarray | None = None
    unbounded: bool = False

    @staticmethod
    def from_sparse(frames: FrameSet, sparse: SparseModel, training: "TrainingConfig") -> "Scene":
        """Scene of the registered frames.  Raises StageError when too few of them are left to train on."""
        from medrecon.radiance.scene_setup import build_scene

        return build_scene(frames, sparse, training)

    @property
    def frame_ids(self) -> list[int]:
        return sorted([*self.train_ids, *self.heldout_ids])

    def validate(self) -> "Scene":
        if set(self.train_ids) & set(self.heldout_ids):
            raise InputError("scene: a frame is both trained on and held out")
        for i in self.frame_ids:
            if i not in self.cameras or i not in self.cam_from_sfm or i not in self.near_far:
                raise InputError(f"scene: frame {i} lacks a camera, a pose or a depth range")
            near, far = self.near_far[i]
            if not (0 < near < far < np.inf):
                raise InputError(f"scene: depth range {near}..{far} of frame {i} is not positive and increasing")
        if (
            self.bounds_min.shape != (3,)
            or self.bounds_max.shape != (3,)
            or not (self.bounds_min < self.bounds_max).all()
        ):
            raise InputError("scene: bounds must be two corners [3] with min < max")
        if self.background not in ("black", "none"):
            raise InputError(f"scene: background must be 'black' or 'none', got {self.background!r}")
        if self.occupied is not None and (self.occupied.ndim != 3 or self.occupied.dtype != bool):
            raise InputError("scene: occupied must be a bool [G, G, G] grid")
        self.field_from_sfm.validate()
        return self

    def cam_from_field(self, cam_from_sfm: Rigid3) -> Rigid3:
        """The pose against the field frame, lengths in field units."""
        return self.field_from_sfm.transform_pose(cam_from_sfm)

    def rays(self, frame_id: int, stride: int = 1) -> RayBatch:
        """Rays through every ``stride``-th pixel centre of a frame, row by row: [ceil(H/stride) * ceil(W/stride)]."""
        return self.camera_rays(
            self.cameras[frame_id], self.cam_from_sfm[frame_id], self.near_far[frame_id], frame_id, stride
        )

    def camera_rays(
        self, camera: Camera, cam_from_sfm: Rigid3, near_far: tuple[float, float], frame_id: int, stride: int = 1
    ) -> RayBatch:
        """Rays of any camera. ``frame_id`` picks the appearance; one that was never trained on has none of its own."""
        directions, radii = pixel_directions(camera)
        directions, radii = directions[::stride, ::stride], radii[::stride, ::stride]
        pixels = torch.arange(camera.width_px * camera.height_px).view(camera.height_px, camera.width_px)
        pose = self.cam_from_field(cam_from_sfm)
        world = (directions.reshape(-1, 3) @ pose.rotation).astype(np.float32)
        n = len(world)
        origins = np.broadcast_to(pose.center.astype(np.float32), (n, 3)).copy()
        near, far = (np.full((n, 1), x, np.float32) for x in near_far)
        rays = RayBatch(
            torch.from_numpy(origins),
            torch.from_numpy(world),
            torch.from_numpy(radii.reshape(-1, 1).astype(np.float32)),
            torch.from_numpy(near),
            torch.from_numpy(far),
            torch.full((n,), frame_id, dtype=torch.int64),
            PixelView(camera, pose, pixels[::stride, ::stride].flatten()),
        )
        return self.clip_to_bounds(rays)

    def clip_to_bounds(self, rays: RayBatch) -> RayBatch:
        """Narrows near and far to the box. A ray that misses it gets far = near: there is nothing to see along it.

        Where the scene is unbounded, nothing changes.
        """
        if self.unbounded:
            return rays
        lo = torch.as_tensor(self.bounds_min, dtype=rays.origins.dtype, device=rays.origins.device)
        hi = torch.as_tensor(self.bounds_max, dtype=rays.origins.dtype, device=rays.origins.device)
        parallel = rays.directions.abs() < 1e-9
        direction = torch.where(parallel, torch.full_like(rays.directions, 1e-9), rays.directions)
        a, b = (lo - rays.origins) / direction, (hi - rays.origins) / direction
        near = torch.maximum(torch.minimum(a, b).amax(-1, keepdim=True), rays.near)
        far = torch.minimum(torch.maximum(a, b).amin(-1, keepdim=True), rays.far)
        hit = far > near
        near = torch.where(hit, near, rays.near)
        return replace(rays, near=near, far=torch.where(hit, far, near))

    def save(self, path: Path) -> None:
        ids = self.frame_ids
        data = {
            "schema": SCHEMA,
            "field_from_sfm": self.field_from_sfm.to_dict(),
            "bounds_min": self.bounds_min.tolist(),
            "bounds_max": self.bounds_max.tolist(),
            "train_ids": list(self.train_ids),
            "heldout_ids": list(self.heldout_ids),
            "cameras": {str(i): self.cameras[i].to_dict() for i in ids},
            "cam_from_sfm": {str(i): self.cam_from_sfm[i].matrix().tolist() for i in ids},
            "near_far": {str(i): [float(x) for x in self.near_far[i]] for i in ids},
            "background": self.background,
            "occupied": None,
            "unbounded": self.unbounded,
        }
        if self.occupied is not None:
            packed = zlib.compress(np.packbits(self.occupied).tobytes(), 9)
            data["occupied"] = {"shape": list(self.occupied.shape), "zlib_bits": base64.b64encode(packed).decode()}
        write_json(Path(path), data)

    @staticmethod
    def load(path: Path) -> "Scene":
        """Raises InputError when the file is missing or is not a scene."""
        data = read_json(path)
        try:
            if data["schema"] != SCHEMA:
                raise ValueError(f"schema {data['schema']}, this version reads {SCHEMA}")
            return Scene(
                Sim3.from_dict(data["field_from_sfm"]),
                np.array(data["bounds_min"], np.float64),
                np.array(data["bounds_max"], np.float64),
                [int(i) for i in data["train_ids"]],
                [int(i) for i in data["heldout_ids"]],
                {int(i): Camera.from_dict(c) for i, c in data["cameras"].items()},
                {int(i): Rigid3.from_matrix(np.array(m)) for i, m in data["cam_from_sfm"].items()},
                {int(i): (float(a), float(b)) for i, (a, b) in data["near_far"].items()},
                data["background"],
                _unpack(data["occupied"]),
                bool(data.get("unbounded", False)),  # older files do not have it
            ).validate()
        except (IndexError, KeyError, TypeError, ValueError, zlib.error) as e:
            raise InputError(f"{path} is not a scene: {type(e).__name__}: {e}", "rerun with --force radiance") from e


def _unpack(data: dict | None) -> np.ndarray | None:
    if data is None:
        return None
    shape = tuple(int(s) for s in data["shape"])
    n = int(np.prod(shape))
    if not 0 < n <= 1024**3:
        raise ValueError(f"occupied grid of shape {shape}")
    inflate = zlib.decompressobj()
    raw = inflate.decompress(base64.b64decode(data["zlib_bits"]), n // 8 + 1)  # a bomb is cut off here
    if len(raw) != (n + 7) // 8:
        raise ValueError(f"occupied grid holds {len(raw)} bytes, {(n + 7) // 8} expected")
    return np.unpackbits(np.frombuffer(raw, np.uint8), count=n).astype(bool).reshape(shape)


def pixel_directions(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Directions and cone radii of all pixels of a camera.

    Returns:
        directions: float64 [H, W, 3], camera axes, z = 1.
        radii: float64 [H, W]: pixel width at depth 1 times 2/sqrt(12), which gives the cone's disc the variance of
            the square pixel (mip-NeRF, section 3.1). The width is the geometric mean of both image axes.
    """
    w, h = camera.width_px, camera.height_px
    # One more column and row than pixels, so that the last ones have a neighbour too.
    u, v = np.meshgrid(np.arange(w + 1) + 0.5, np.arange(h + 1) + 0.5)
    d = camera.unproject(np.stack([u, v], -1))
    dx = np.linalg.norm(d[:-1, 1:] - d[:-1, :-1], axis=-1)
    dy = np.linalg.norm(d[1:, :-1] - d[:-1, :-1], axis=-1)
    return d[:-1, :-1], np.sqrt(dx * dy) * 2 / np.sqrt(12)

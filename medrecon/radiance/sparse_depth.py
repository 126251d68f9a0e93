# SPDX-License-Identifier: Apache-2.0
"""What the sparse points tell a field: before a point the line of sight is free, and at the point it ends."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medrecon.radiance.renderer import Renderer
from medrecon.radiance.scene import Scene
from medrecon.types import RayBatch, SparseModel

MARGIN = 0.03  # of a point's depth, on either side of it: where its surface may lie
PER_RAY = 8  # one observation for so many pixels of a step


class SparseDepth:
    """Lines of sight from the training pictures to the points that they observe.

    The points of structure from motion supervise depth (DS-NeRF, Deng et al. 2022), here in two terms per line of sight
    (after Urban Radiance Fields, Rematas et al. 2022, section 4.3): the opacity from the lens to just before the point
    is to be 0, which removes floaters, that round the point 1. Of the renderer it needs `Renderer.render_basic` between
    two ends (`Renderer.meets_surfaces`).

    Attributes:
        origins: float32 [F, 3], centres of the training pictures.  frame_ids: int64 [F].  radii: float32 [F].
        frame: int64 [O], picture of each observation.  directions: float32 [O, 3], to the point, z-depth 1.
        depth: float32 [O], z-depth in field units.
        weight: float32 [O], exp(-(e / mean e)^2) for a reprojection error e (DS-NeRF, section 3.2), mean 1.
    """

    def __init__(self, scene: Scene, sparse: SparseModel, device: str = "cpu"):
        lengths = np.diff(sparse.track_offsets)
        owner = np.repeat(np.arange(len(sparse.points)), lengths)
        ids = np.array(scene.train_ids, np.int64)
        # Two views say little about their own error: a wrong match on the epipolar line fits as well as a right one.
        use = (lengths[owner] >= 3) & np.isin(sparse.track_frame_ids, ids)
        owner, frame = owner[use], np.searchsorted(ids, sparse.track_frame_ids[use])
        poses = [scene.cam_from_field(scene.cam_from_sfm[i]) for i in scene.train_ids]
        origins = np.array([p.center for p in poses]).reshape(-1, 3)
        forward = np.array([p.rotation[2] for p in poses]).reshape(-1, 3)
        away = scene.field_from_sfm.apply(sparse.points[owner]) - origins[frame]
        depth = (away * forward[frame]).sum(-1)
        radii = np.array([2 / np.sqrt(12) / max(scene.cameras[i].focal_px) for i in scene.train_ids])
        errors = sparse.errors_px[owner]
        weight = np.exp(-((errors / max(errors.mean(), 1e-9)) ** 2)) if len(errors) else errors
        seen = depth > 1e-6
        f32 = lambda x: torch.from_numpy(np.asarray(x, np.float32)).to(device)  # noqa: E731
        self.origins, self.radii = f32(origins), f32(radii)
        self.frame_ids, self.frame = torch.from_numpy(ids).to(device), torch.from_numpy(frame[seen]).to(device)
        self.directions, self.depth = f32(away[seen] / depth[seen, None]), f32(depth[seen])
        self.weight = f32(weight[seen] / max(weight[seen].mean(), 1e-9) if seen.any() else weight[seen])
        self.scene = scene

    def __len__(self) -> int:
        return len(self.depth)

    def loss(self, renderer: Renderer, n: int, generator: torch.Generator) -> Tensor:
        """Mean over ``n`` observations, drawn at random, of (opacity before the point)^2 + (1 - opacity at it)^2."""
        draw = {"generator": generator, "device": generator.device}
        k = torch.randint(len(self), (n,), **draw)
        depth = self.depth[k, None]
        near, far = depth * (1 - MARGIN), depth * (1 + MARGIN)
        # The first sample of a renderer on a lattice begins at near: drawn, so that all places get their turn.
        start = torch.rand(n, 1, **draw) * 0.1 * near
        # Both pieces of each line in one call.
        k = torch.cat([k, k])
        rays = RayBatch(
            self.origins[self.frame[k]], self.directions[k], self.radii[self.frame[k], None],
            torch.cat([start, near]), torch.cat([near, far]), self.frame_ids[self.frame[k]],
        )  # fmt: skip
        before, there = renderer.render_basic(self.scene.clip_to_bounds(rays)).opacity.chunk(2)
        return (self.weight[k[:n]] * (before**2 + (1 - there) ** 2)).mean()

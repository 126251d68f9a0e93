# SPDX-License-Identifier: Apache-2.0
"""What the cameras saw, as points in the true world: of the truth, and of the reconstruction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medrecon.metrics.surface import thin
from medrecon.progress import Progress
from medrecon.surface.vtk_mesh import MeshLocator
from medrecon.types import Camera, Sim3, SparseModel, Truth
from medrecon.types.storage import read_npz

if TYPE_CHECKING:
    from medrecon.radiance.renders import RenderedView


def pixel_grid(camera: Camera, stride: int = 1) -> np.ndarray:
    """Pixel centres float64 [h, w, 2] of every ``stride``-th row and column."""
    x, y = np.arange(0, camera.width_px, stride) + 0.5, np.arange(0, camera.height_px, stride) + 0.5
    return np.stack(np.meshgrid(x, y), -1)


def true_points(truth: Truth, frame_ids: list[int], progress: Progress) -> tuple[np.ndarray, float]:
    """True surface points [N, 3] in world mm that the frames see, at most one per cube of the returned side (mm).

    The side is half of the median pixel's width on the surface.
    """
    ids = [i for i in frame_ids if i in truth.depth_paths and i in truth.cameras]
    clouds, spacing = [], 0.0
    progress.begin(len(ids), "depth maps")
    for i in ids:
        camera, depth = truth.cameras[i], read_depth(truth.depth_paths[i])
        camera = camera.scaled(depth.shape[1], depth.shape[0])
        hit = depth > 0
        if hit.any():
            spacing = spacing or 0.5 * float(np.median(depth[hit])) / max(camera.focal_px)
            rays = camera.unproject(pixel_grid(camera)[hit])
            points = truth.cam_from_world_mm[i].inverse().apply(rays * depth[hit][:, None])
            clouds.append(thin(points, spacing))
        progress.advance(1)
    return (thin(np.concatenate(clouds), spacing), spacing) if clouds else (np.zeros((0, 3)), 0.0)


def read_depth(path: Path) -> np.ndarray:
    """float64 [H, W] z-depth in mm, 0 = nothing hit."""
    depth = read_npz(path)["depth_mm"].astype(np.float64)
    return np.where(np.isfinite(depth), depth, 0.0)


def reconstructed_points(
    locator: MeshLocator,
    vertices: np.ndarray,
    sparse: SparseModel,
    world_from_sfm: Sim3,
    max_rays: int,
    spacing: float,
    progress: Progress,
) -> np.ndarray:
    """First hits [N, 3] in world mm of the registered cameras' rays with the reconstructed surface, evened out."""
    ids = sparse.registered_ids
    hits = []
    progress.begin(len(ids), "views")
    for i in ids:
        camera = sparse.cameras[i]
        stride = max(1, int(np.ceil(np.sqrt(camera.width_px * camera.height_px * len(ids) / max_rays))))
        pose = world_from_sfm.transform_pose(sparse.cam_from_world[i])
        directions = camera.unproject(pixel_grid(camera, stride)).reshape(-1, 3) @ pose.rotation
        reach = 1.1 * float(np.linalg.norm(vertices - pose.center, axis=1).max())  # past the farthest vertex
        origins = np.broadcast_to(pose.center, directions.shape)
        t = locator.first_hits(origins, origins + reach * directions)
        found = ~np.isnan(t)
        hits.append(origins[found] + (t[found] * reach)[:, None] * directions[found])
        progress.advance(1)
    # Overlapping views would count the same place many times.
    return thin(np.concatenate(hits), spacing) if hits else np.zeros((0, 3))


def depth_errors(view: "RenderedView", truth: Truth, mm_per_sfm: float) -> np.ndarray:
    """Absolute z-depth differences in mm [N] of one rendered view, where both sides hit something."""
    rendered = view.load_depth_sfm().astype(np.float64) * mm_per_sfm
    true = read_depth(truth.depth_paths[view.frame_id])
    (h, w), (th, tw) = rendered.shape, true.shape
    rows = np.minimum(((np.arange(h) + 0.5) * th / h).astype(int), th - 1)
    columns = np.minimum(((np.arange(w) + 0.5) * tw / w).astype(int), tw - 1)
    true = true[np.ix_(rows, columns)]
    both = (rendered > 0) & (true > 0)
    return np.abs(rendered - true)[both]

# SPDX-License-Identifier: Apache-2.0
"""Which density is the surface: the level whose isosurface lies where the rendered depth says it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from skimage.filters import threshold_otsu

from medrecon.errors import StageError
from medrecon.progress import Progress
from medrecon.surface.density_grid import DensityGrid

if TYPE_CHECKING:
    from medrecon.radiance.renderer import Renderer
    from medrecon.radiance.scene import Scene

_VIEWS, _RAYS_PER_VIEW, _LEVELS = 8, 400, 32


def calibrate_threshold(
    renderer: "Renderer", scene: "Scene", grid: DensityGrid, device: str, progress: Progress
) -> float:
    """Density level, per field unit.

    A few hundred rays of up to eight training views are rendered. Where a ray is opaque (opacity above one half) its
    median depth, at which half of the light is absorbed, is the surface the renderer itself sees. Of 32 levels the
    one is taken whose first crossing along the rays lies closest to those depths; a ray counts at most five grid
    steps, which is also the price of a missed surface and of a crossing where the ray sees the background.

    Where rays pass through matter (``renderer.translucent``) depth marks no surface: there the level is the one that
    divides the samples into thin and dense with the least variance within both (Otsu 1979), air from body.

    Raises StageError when no ray is opaque: then the field holds no surface.
    """
    if getattr(renderer, "translucent", False):
        level = float(threshold_otsu(grid.values))
        progress.say(f"surface at density {level:.3g} per field unit, which divides thin from dense")
        return level
    picked = scene.train_ids[:: max(1, -(-len(scene.train_ids) // _VIEWS))]
    origins, directions, near, far, depth, opaque = [], [], [], [], [], []
    progress.begin(len(picked), "views")
    with torch.no_grad():
        for frame_id in picked:
            camera = scene.cameras[frame_id]
            stride = max(1, int(np.sqrt(camera.width_px * camera.height_px / _RAYS_PER_VIEW)))
            rays = scene.rays(frame_id, stride=stride)
            out = renderer.render(rays.to(device))
            d = out.depth if out.depth_median is None else out.depth_median
            for sink, tensor in zip(
                (origins, directions, near, far, depth, opaque),
                (rays.origins, rays.directions, rays.near, rays.far, d, out.opacity > 0.5),
            ):
                sink.append(tensor.cpu().numpy())
            progress.advance(1)
    o, r = np.concatenate(origins).astype(np.float64), np.concatenate(directions).astype(np.float64)
    n, f = np.concatenate(near).ravel(), np.concatenate(far).ravel()
    depth, opaque = np.concatenate(depth).ravel(), np.concatenate(opaque).ravel()
    opaque &= depth > 0
    if not opaque.any() or not grid.values.any():
        raise StageError(
            "the trained field is transparent in every training view: there is no surface to extract",
            "train longer, or set the mesher's threshold yourself",
        )
    levels, errors = candidate_errors(grid, o, r, n, f, np.where(opaque, depth, np.nan))
    best = float(levels[int(np.argmin(errors))])
    progress.say(f"surface at density {best:.3g} per field unit ({errors.min():.2f} grid steps from rendered depth)")
    return best


def candidate_errors(
    grid: DensityGrid, origins: np.ndarray, directions: np.ndarray, near: np.ndarray, far: np.ndarray, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Levels, and the mean clipped distance in grid steps between crossing and depth (NaN = sees the background)."""
    top = float(grid.values.max())
    levels = np.geomspace(min(0.05 / grid.step, top / 4), min(20 / grid.step, top * 0.98), _LEVELS)
    length = np.linalg.norm(directions, axis=1)  # t is z-depth: a step of t is longer than the step in z
    n = int(np.ceil(((far - near) * length).max() / (0.75 * grid.step))) + 1
    error_sum = np.zeros(_LEVELS)
    for rows in np.array_split(np.arange(len(origins)), -(-len(origins) * n // 2_000_000)):
        t = near[rows, None] + (far - near)[rows, None] * np.linspace(0, 1, n)
        points = origins[rows, None] + t[..., None] * directions[rows, None]
        sigma = grid.at(points.reshape(-1, 3)).reshape(t.shape)
        for k, level in enumerate(levels):
            cross = first_crossing(t, sigma, level)
            gap = np.abs(cross - depth[rows]) * length[rows] / grid.step
            background = np.isnan(depth[rows]) & np.isnan(cross)
            gap = np.where(background, 0.0, np.where(np.isnan(gap), 5.0, np.minimum(gap, 5.0)))
            error_sum[k] += gap.sum()
    return levels, error_sum / len(origins)


def first_crossing(t: np.ndarray, sigma: np.ndarray, level: float) -> np.ndarray:
    """Depth [N] at which ``sigma`` [N, S] sampled at ``t`` [N, S] first reaches ``level``; NaN when never."""
    above = sigma >= level
    k = above.argmax(1)
    row = np.arange(len(t))
    before = np.maximum(k - 1, 0)
    s0, s1 = sigma[row, before], sigma[row, k]
    part = np.where(k > 0, (level - s0) / np.maximum(s1 - s0, 1e-30), 0.0)
    out = t[row, before] + part * (t[row, k] - t[row, before])
    return np.where(above.any(1), out, np.nan)

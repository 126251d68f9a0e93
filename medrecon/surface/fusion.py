# SPDX-License-Identifier: Apache-2.0
"""Depth maps fused into a truncated signed distance volume (Curless and Levoy 1996), in blocks near the surface."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import binary_dilation
from skimage.measure import marching_cubes

from medrecon.progress import Progress
from medrecon.radiance.scene import pixel_directions
from medrecon.surface.depth_views import DepthView
from medrecon.surface.visibility import widest_slope

_BLOCK = 4  # voxels along a block's edge
_AT_ONCE = 1024  # blocks: what is computed for them stays in the processor's cache
_ROW = 4096  # cv2.remap takes pictures of at most 32767 rows and columns


@dataclass(frozen=True, slots=True)
class DistanceVolume:
    """A truncated signed distance field on a regular grid.

    Attributes:
        values: float32 [I, J, K], distance to the surface over the truncation, -1 (inside) to 1 (outside).
        weights: float32 [I, J, K], how much was seen of the voxel; 0 = nothing, and the value means nothing.
        origin: float64 [3], position of voxel (0, 0, 0).
        step: distance between voxels, the same along the three axes.
    """

    values: np.ndarray
    weights: np.ndarray
    origin: np.ndarray
    step: float

    def surface(self, min_weight: float) -> tuple[np.ndarray, np.ndarray]:
        """vertices float64 [V, 3], faces int32 [F, 3]: where the sign changes between two voxels that were both seen.

        A face is left out where one of the voxels that its vertices lie between was seen less than ``min_weight``: no
        surface is made up towards the unseen.
        """
        seen = (self.weights > 0) & (self.weights >= min_weight)
        values = np.where(seen, self.values, 1.0)
        if not (values.min() < 0 < values.max()):
            return np.zeros((0, 3)), np.zeros((0, 3), np.int32)
        vertices, faces, _, _ = marching_cubes(values, 0.0, gradient_direction="descent")
        low, high = np.floor(vertices).astype(int), np.ceil(vertices).astype(int)
        both = seen[tuple(low.T)] & seen[tuple(high.T)]
        faces = faces[both[faces].all(1)].astype(np.int32)
        return self.origin + self.step * vertices.astype(np.float64), faces


def fuse(
    views: list[DepthView], bounds_min: np.ndarray, bounds_max: np.ndarray, resolution: int, truncation: float,
    progress: Progress,
) -> DistanceVolume:  # fmt: skip
    """Fuse views into a volume over the bounds with ``resolution`` voxels along its longest side.

    A voxel's distance in a view is that from the view's surface along the ray, times the cosine between the ray and
    the surface's normal: the distance to the tangent plane. It counts with the weight

        cosine * fade^2 / (1 + (spread / truncation)^2),

    where spread is the standard deviation of the depth, and fade falls evenly from 1 at half a voxel behind the
    surface to 0 at the truncation, so that the two sides of a thin wall hardly push each other away. Farther behind, a
    view says nothing; farther in front, the voxel is empty. A ray along which less than half of the light is lost
    empties the voxels along it with the weight 1 - 2 opacity. In the pixels next to an edge a view says nothing of what
    lies as deep as the edge's nearer side or deeper: silhouettes are known to a pixel only.

    Args:
        truncation: in voxels.
    """
    extent = bounds_max - bounds_min
    step = float(extent.max()) / (resolution - 1)
    reach = truncation * step
    shape = np.maximum(np.ceil(extent / step - 1e-9).astype(int) + 1, 2)
    blocks = -(-shape // _BLOCK)
    near = _blocks_near(views, bounds_min, step, blocks, reach)
    where = np.argwhere(near)
    offsets = np.stack(np.meshgrid(*[np.arange(_BLOCK)] * 3, indexing="ij"), -1).reshape(-1, 3)
    total, weight = (np.zeros((len(where), len(offsets)), np.float32) for _ in range(2))
    corners = (bounds_min + step * _BLOCK * where).astype(np.float32)
    spread = (step * offsets).astype(np.float32)
    centres = corners + step * (_BLOCK - 1) / 2
    radius = step * _BLOCK * np.sqrt(3) / 2
    progress.begin(len(views), "views fused")
    for view in views:
        maps = _Maps(view, reach)
        chosen = np.flatnonzero(_may_see(view, centres, radius, reach))
        for k in range(0, len(chosen), _AT_ONCE):
            part = chosen[k : k + _AT_ONCE]
            points = (corners[part, None] + spread).reshape(-1, 3)
            value, w = maps.look(points, reach, step)
            total[part] += (value * w).reshape(len(part), -1)
            weight[part] += w.reshape(len(part), -1)
        progress.advance(1)
    volume = [np.zeros(tuple(blocks * _BLOCK), np.float32) for _ in range(2)]
    for sink, flat in zip(volume, (total / np.maximum(weight, 1e-12), weight)):
        tiles = sink.reshape(blocks[0], _BLOCK, blocks[1], _BLOCK, blocks[2], _BLOCK).transpose(0, 2, 4, 1, 3, 5)
        tiles[near] = flat.reshape(-1, _BLOCK, _BLOCK, _BLOCK)
    i, j, k = shape
    return DistanceVolume(volume[0][:i, :j, :k], volume[1][:i, :j, :k], np.array(bounds_min, np.float64), step)


def _blocks_near(
    views: list[DepthView], bounds_min: np.ndarray, step: float, blocks: np.ndarray, reach: float
) -> np.ndarray:
    """bool per block: whether it may hold a voxel within ``reach`` of what some view shows."""
    near = np.zeros(tuple(blocks), bool)
    for view in views:
        hit = view.depth > 0
        points = pixel_directions(view.camera)[0][hit] * view.depth[hit][:, None]
        index = np.floor((view.cam_from_field.inverse().apply(points) - bounds_min) / (step * _BLOCK)).astype(int)
        inside = ((index >= 0) & (index < blocks)).all(1)
        near[tuple(index[inside].T)] = True
    return binary_dilation(near, np.ones((3, 3, 3), bool), int(np.ceil(reach / (step * _BLOCK))))


def _may_see(view: DepthView, centres: np.ndarray, radius: float, reach: float) -> np.ndarray:
    """bool [B]: whether a voxel of the block about each centre may project into the picture, not far behind it."""
    p = view.cam_from_field.apply(centres)
    far = float(view.depth.max()) if (view.depth > 0).any() and (view.opacity > 0.5).all() else np.inf
    slope = widest_slope(view.camera)
    ahead = (p[:, 2] > -radius) & (p[:, 2] < far + reach + radius)
    return ahead & (np.hypot(p[:, 0], p[:, 1]) < slope * np.maximum(p[:, 2], 0) + radius * (1 + slope))


class _Maps:
    """A view's maps, ready to be looked up at any pixel position."""

    def __init__(self, view: DepthView, reach: float):
        self.view = view
        # Between neighbours of one surface depth is interpolated; across an edge the nearest pixel holds.
        hit = view.depth > 0
        kernel = np.ones((3, 3), np.uint8)
        high = cv2.dilate(view.depth, kernel)
        low = cv2.erode(np.where(hit, view.depth, np.float32(0)), kernel)
        self.smooth = (low > 0) & (high - low < 2 * reach)
        self.rotation = view.cam_from_field.rotation.T.astype(np.float32)
        self.translation = view.cam_from_field.translation.astype(np.float32)
        self.foreground = cv2.erode(np.where(hit, view.depth, np.float32(np.inf)), kernel)
        directions = pixel_directions(view.camera)[0]
        self.length = np.linalg.norm(directions, axis=-1).astype(np.float32)
        self.slope = widest_slope(view.camera)

    def look(self, points: np.ndarray, reach: float, step: float) -> tuple[np.ndarray, np.ndarray]:
        """Truncated distance -1..1 and weight, float32 [N] each, of field points float32 [N, 3]."""
        view, camera = self.view, self.view.camera
        p = points @ self.rotation + self.translation
        value, weight = (np.zeros(len(p), np.float32) for _ in range(2))
        slope = self.slope * np.maximum(p[:, 2], 0)
        index = np.flatnonzero(p[:, 0] * p[:, 0] + p[:, 1] * p[:, 1] < slope * slope)
        p = p[index]
        xy = camera.project(p).astype(np.float32)
        inside = (xy.min(1) >= 0) & (xy[:, 0] < camera.width_px) & (xy[:, 1] < camera.height_px)
        index, xy, z = index[inside], xy[inside], p[inside, 2]
        if not len(index):
            return value, weight
        row, column = xy[:, 1].astype(np.int32), xy[:, 0].astype(np.int32)
        depth = view.depth[row, column]
        depth = np.where(self.smooth[row, column], _interpolate(view.depth, xy), depth)
        cosine = view.cosine[row, column]
        distance = (depth - z) * self.length[row, column] * cosine
        fade = np.clip((reach + distance) / (reach - 0.5 * step), 0, 1)
        w = cosine * fade * fade / (1 + (view.spread[row, column] / reach) ** 2)
        hit = depth > 0
        w = np.where(hit, w, np.maximum(1 - 2 * view.opacity[row, column], 0))
        ahead = self.foreground[row, column]
        beside = (z > ahead - reach) & (~hit | (depth - ahead > 2 * reach))
        value[index] = np.where(hit, np.clip(distance / reach, -1, 1), 1)
        weight[index] = np.where(beside, 0, w)
        return value, weight


def _interpolate(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Bilinear float32 [N] at pixel positions [N, 2]; pixel centres at (0.5, 0.5)."""
    n = len(xy)
    padded = np.zeros((-(-n // _ROW) * _ROW, 2), np.float32)
    padded[:n] = xy - 0.5
    maps = padded.reshape(-1, _ROW, 2)
    return cv2.remap(image, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).ravel()[:n]

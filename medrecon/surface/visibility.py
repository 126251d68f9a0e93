# SPDX-License-Identifier: Apache-2.0
"""Which vertices the training cameras saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from medrecon.types import Camera, Frame, Rigid3


@dataclass(frozen=True, slots=True)
class Sight:
    """What one camera sees of a mesh.

    Attributes:
        frame_id: the camera.
        visible: bool [V].
        xy_px: float64 [V, 2] pixel of each vertex; meaningless where not visible.
        cosine: float64 [V] between the vertex normal and the direction to the camera.
    """

    frame_id: int
    visible: np.ndarray
    xy_px: np.ndarray
    cosine: np.ndarray


def sights(
    vertices: np.ndarray,
    normals: np.ndarray,
    spacing: float,
    cameras: dict[int, Camera],
    cam_from_mesh: dict[int, Rigid3],
    frame_ids: list[int],
) -> Iterator[Sight]:
    """One ``Sight`` per frame.

    A vertex is visible when it projects into the picture, faces the camera, and no vertex lies more than three
    spacings in front of it in its cell of a z-buffer whose cells are two spacings wide (so that it has no holes); a
    surface that recedes steeply gets the depth it spans within a cell on top.

    Args:
        vertices, normals: float64 [V, 3], normals of unit length, outwards.
        spacing: typical distance of neighbouring vertices.
        cam_from_mesh: poses against the frame of the vertices, in its unit.
    """
    for frame_id in frame_ids:
        camera, pose = cameras[frame_id], cam_from_mesh[frame_id]
        p = pose.apply(vertices)
        xy = camera.project(p)
        z = p[:, 2]
        # Wide-angle polynomials fold far outside the picture back into it: only what projects there without
        # distortion too (with a wide margin) is believed.
        with np.errstate(invalid="ignore"):
            near_axis = np.hypot(p[:, 0], p[:, 1]) < widest_slope(camera) * z
            inside = (z > 0) & near_axis & (xy >= 0).all(1) & (xy < [camera.width_px, camera.height_px]).all(1)
        to_camera = pose.center - vertices
        cosine = (normals * to_camera).sum(1) / np.maximum(np.linalg.norm(to_camera, axis=1), 1e-30)
        inside &= cosine > 0
        visible = np.zeros(len(vertices), bool)
        index = np.flatnonzero(inside)
        if len(index):
            focal = max(camera.focal_px)
            cell_px = max(1.0, 2 * spacing * focal / float(np.median(z[index])))
            width = int(np.ceil(camera.width_px / cell_px))
            cell = (xy[index, 1] // cell_px).astype(np.int64) * width + (xy[index, 0] // cell_px).astype(np.int64)
            nearest = np.full(int(cell.max()) + 1, np.inf)
            np.minimum.at(nearest, cell, z[index])
            c = cosine[index]
            slope = np.sqrt(np.maximum(1 - c * c, 0)) / np.maximum(c, 0.1)
            visible[index] = z[index] <= nearest[cell] + 3 * spacing + 2 * slope * cell_px * z[index] / focal
        yield Sight(frame_id, visible, xy, cosine)


def unmasked(sight: Sight, frame: Frame | None, camera: Camera) -> Sight:
    """The same without vertices whose pixel the picture's mask hides.

    Args:
        camera: that of ``sight.xy_px``; the mask may be larger.
    """
    mask = None if frame is None else frame.load_mask()
    if mask is None:
        return sight
    index = np.flatnonzero(sight.visible)
    h, w = mask.shape
    column = (sight.xy_px[index, 0] * w / camera.width_px).astype(int).clip(0, w - 1)
    row = (sight.xy_px[index, 1] * h / camera.height_px).astype(int).clip(0, h - 1)
    visible = np.zeros_like(sight.visible)
    visible[index] = mask[row, column]
    return replace(sight, visible=visible)


def widest_slope(camera: Camera) -> float:
    """Largest distance from the axis, at depth 1, of the rays through the picture's border."""
    w, h = camera.width_px, camera.height_px
    u, v = np.linspace(0, w, 33), np.linspace(0, h, 33)
    border = np.concatenate(
        [np.stack([u, 0 * u], 1), np.stack([u, 0 * u + h], 1), np.stack([0 * v, v], 1), np.stack([0 * v + w, v], 1)]
    )
    slope = np.linalg.norm(camera.unproject(border)[:, :2], axis=1)
    return 1.05 * float(np.nanmax(slope))

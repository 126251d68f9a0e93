# SPDX-License-Identifier: Apache-2.0
"""Numbers taken from a surface: area, enclosed volume, extent, distance between two points, with uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medrecon.errors import InputError
from medrecon.surface.cleanup import face_areas
from medrecon.surface.vtk_mesh import MeshLocator
from medrecon.types import Mesh

if TYPE_CHECKING:
    from medrecon.runfolder import RunFolder


@dataclass(frozen=True, slots=True)
class SurfaceGeometry:
    """Measures of a mesh in its own unit.

    Attributes:
        area: sum of the triangles.
        volume: enclosed volume, None when the mesh does not enclose one (``volume_reason`` says why).
        bbox_min, bbox_max: float64 [3] corners of the axis-aligned box.
    """

    area: float
    volume: float | None
    volume_reason: str
    bbox_min: np.ndarray
    bbox_max: np.ndarray


def measure_geometry(mesh: Mesh) -> SurfaceGeometry:
    """Raises InputError: mesh without faces."""
    if not len(mesh.faces):
        raise InputError("the mesh has no faces to measure")
    reason = open_reason(mesh.faces)
    volume = None
    if not reason:
        # Divergence theorem: signed volumes of the tetrahedra to a point near the mesh (far ones cancel badly).
        a, b, c = (mesh.vertices[mesh.faces[:, k]] - mesh.vertices.mean(0) for k in range(3))
        volume = float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)
        if volume < 0:
            volume, reason = None, "the triangles are turned inside out: the mesh bounds a cavity, not a body"
    used = mesh.vertices[np.unique(mesh.faces)]
    return SurfaceGeometry(float(face_areas(mesh.vertices, mesh.faces).sum()), volume, reason, used.min(0), used.max(0))


def open_reason(faces: np.ndarray) -> str:
    """Why triangles int [F, 3] do not enclose a volume; "" when they do.

    They do when every directed edge occurs once and its reverse once (closed, manifold along edges, oriented alike).
    """
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    n = int(faces.max()) + 1
    forward, count = np.unique(edges[:, 0] * n + edges[:, 1], return_counts=True)
    if (count > 1).any():
        return f"{int((count > 1).sum())} edges belong to more than two triangles or to triangles turned oppositely"
    backward = np.unique(edges[:, 1] * n + edges[:, 0])
    border = len(np.setdiff1d(forward, backward, assume_unique=True))
    return f"the surface is open: {border} border edges" if border else ""


@dataclass(frozen=True, slots=True)
class PixelPick:
    """A pixel of a registered frame, at the frame's own resolution; (0.5, 0.5) is the centre of the first pixel."""

    frame_id: int
    x_px: float
    y_px: float


@dataclass(frozen=True, slots=True)
class MeasuredDistance:
    """A straight distance between two points of the surface.

    Attributes:
        value, sigma: distance and its one-sigma uncertainty; None when the scale's own uncertainty is not known and
            only ``sigma_local`` can be given.
        sigma_local: part of sigma that comes from the two end points.
        unit: "mm" or "units" (scale unknown).
        a, b: float64 [3] end points in the frame of the mesh.
        note: what the reader must know, else "".
    """

    value: float
    sigma: float | None
    sigma_local: float
    unit: str
    a: np.ndarray
    b: np.ndarray
    note: str


def measure_distance(
    run: "RunFolder", a: int | PixelPick | np.ndarray, b: int | PixelPick | np.ndarray
) -> MeasuredDistance:
    """Distance between two places on the run's surface.

    A place is a vertex index, a point float [3] in the frame of the mesh, or a ``PixelPick`` whose ray is followed to
    the first hit. Uncertainty: each end point is known to half the median edge of the mesh, a picked pixel also to
    the reconstruction's reprojection error at its depth; the scale adds its relative sigma times the distance.

    Raises InputError: no such vertex or frame, a pixel outside the picture, or a ray that misses the surface.
    """
    mesh, sparse = run.mesh, run.sparse
    locator = None
    ends, variances = [], []
    e = mesh.faces[:, [0, 1]]
    half_edge = 0.5 * float(np.median(np.linalg.norm(mesh.vertices[e[:, 0]] - mesh.vertices[e[:, 1]], axis=1)))
    for place in (a, b):
        extra = 0.0
        if isinstance(place, PixelPick):
            locator = locator or MeshLocator(mesh.vertices, mesh.faces)
            point, depth = _first_hit(run, mesh, locator, place)
            reprojection = sparse.mean_reprojection_px
            if np.isfinite(reprojection):
                extra = depth * reprojection / sparse.cameras[place.frame_id].focal_px[0]
        elif isinstance(place, (int, np.integer)):
            if not 0 <= place < len(mesh.vertices):
                raise InputError(f"the mesh has no vertex {place}", f"0 to {len(mesh.vertices) - 1}")
            point = mesh.vertices[int(place)]
        else:
            point = np.asarray(place, np.float64)
            if point.shape != (3,) or not np.isfinite(point).all():
                raise InputError("a point must be three finite numbers")
        ends.append(point)
        variances.append(half_edge**2 + extra**2)
    value = float(np.linalg.norm(ends[1] - ends[0]))
    local = float(np.sqrt(sum(variances)))
    scale = sparse.scale
    if not scale.is_metric:
        return MeasuredDistance(value, None, local, "units", *ends, "scale unknown: not a length in millimetres")
    if scale.relative_sigma is None:
        return MeasuredDistance(value, None, local, "mm", *ends, "the uncertainty of the scale is not known")
    return MeasuredDistance(value, float(np.hypot(local, value * scale.relative_sigma)), local, "mm", *ends, "")


def measure_pixels(run: "RunFolder", frame_id: int, a_px: Sequence[float], b_px: Sequence[float]) -> MeasuredDistance:
    """Distance between what two pixels (x, y) of one frame show; see ``measure_distance``."""
    return measure_distance(run, PixelPick(frame_id, *map(float, a_px)), PixelPick(frame_id, *map(float, b_px)))


def _first_hit(run: "RunFolder", mesh: Mesh, locator: MeshLocator, pick: PixelPick) -> tuple[np.ndarray, float]:
    """The point the pixel shows, and its z-depth, in the frame and unit of the mesh."""
    sparse = run.posed
    if pick.frame_id not in sparse.cam_from_world:
        raise InputError(f"frame {pick.frame_id} is not registered", "pick in a registered frame")
    camera = sparse.cameras[pick.frame_id]
    if not (0 <= pick.x_px <= camera.width_px and 0 <= pick.y_px <= camera.height_px):
        raise InputError(f"pixel ({pick.x_px}, {pick.y_px}) is outside the {camera.width_px}x{camera.height_px} frame")
    pose = sparse.scale.metric_from_sfm.transform_pose(sparse.cam_from_world[pick.frame_id])
    direction = camera.unproject(np.array([pick.x_px, pick.y_px])) @ pose.rotation
    # Far enough to leave the mesh wherever the camera stands.
    reach = 1.1 * float(np.linalg.norm(mesh.vertices - pose.center, axis=1).max())
    t = locator.first_hits(pose.center[None], (pose.center + reach * direction)[None])[0]
    if np.isnan(t):
        raise InputError(f"the ray of pixel ({pick.x_px}, {pick.y_px}) in frame {pick.frame_id} misses the surface")
    return pose.center + t * reach * direction, float(t * reach)

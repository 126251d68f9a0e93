# SPDX-License-Identifier: Apache-2.0
"""Distances between surfaces, one direction at a time and together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from medrecon.errors import InputError
from medrecon.surface.vtk_mesh import MeshLocator
from medrecon.types import Mesh


@dataclass(frozen=True, slots=True)
class DistanceSummary:
    """Unsigned distances from one surface to another, in the unit of the points.

    Attributes:
        mean, rms, p95, maximum: of the distances; p95 is the one-sided 95th percentile Hausdorff distance.
        n: number of points measured.
    """

    mean: float
    rms: float
    p95: float
    maximum: float
    n: int


def summarise(distances: np.ndarray) -> DistanceSummary:
    """Raises InputError when there is nothing to summarise."""
    d = np.asarray(distances, np.float64)
    if not d.size or not np.isfinite(d).all():
        raise InputError("surface distance: no points to compare, or distances that are not finite")
    return DistanceSummary(
        float(d.mean()), float(np.sqrt((d * d).mean())), float(np.percentile(d, 95)), float(d.max()), d.size
    )


def distances_to_mesh(points: np.ndarray, mesh: Mesh) -> np.ndarray:
    """Exact distance float64 [N] from points [N, 3] to the triangles.  Raises InputError: mesh without faces."""
    if not len(mesh.faces):
        raise InputError("the mesh has no faces to measure to")
    return MeshLocator(mesh.vertices, mesh.faces).distances(points)


def distances_to_points(points: np.ndarray, cloud: np.ndarray) -> np.ndarray:
    """Distance float64 [N] from points [N, 3] to the nearest of ``cloud`` [M, 3].

    Above the distance to the surface the cloud was sampled from, by at most about half the cloud's spacing.
    """
    if not len(cloud):
        raise InputError("there are no reference points to measure to")
    return cKDTree(cloud).query(points)[0]


def chamfer(a_to_b: DistanceSummary, b_to_a: DistanceSummary) -> float:
    """Mean of the two mean distances."""
    return 0.5 * (a_to_b.mean + b_to_a.mean)


def hausdorff95(a_to_b: DistanceSummary, b_to_a: DistanceSummary) -> float:
    """Symmetric 95th percentile Hausdorff distance: the larger of both directions."""
    return max(a_to_b.p95, b_to_a.p95)


def sample_surface(mesh: Mesh, n: int, seed: int = 0) -> np.ndarray:
    """n points float64 [n, 3] spread evenly by area.  Raises InputError: mesh without area."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    if not area.sum() > 0:
        raise InputError("the mesh has no area to sample")
    rng = np.random.default_rng(seed)
    # Stratified along the cumulated area: even coverage with fewer points than independent draws need.
    position = (np.arange(n) + rng.random(n)) / n * area.sum()
    f = np.minimum(np.searchsorted(np.cumsum(area), position, side="right"), len(area) - 1)
    u, v = rng.random((2, n, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return a[f] + u * (b[f] - a[f]) + v * (c[f] - a[f])


def thin(points: np.ndarray, spacing: float) -> np.ndarray:
    """At most one point per cube of side ``spacing``: the one that comes first."""
    if not len(points):
        return points
    cell = np.floor((points - points.min(0)) / spacing).astype(np.int64)
    size = cell.max(0) + 1
    _, first = np.unique((cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2], return_index=True)
    return points[np.sort(first)]

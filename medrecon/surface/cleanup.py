# SPDX-License-Identifier: Apache-2.0
"""Mesh clean-up: components, unused vertices, smoothing, decimation, normals."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from vtkmodules.vtkFiltersCore import vtkQuadricDecimation, vtkWindowedSincPolyDataFilter

from medrecon.surface.vtk_mesh import from_polydata, to_polydata


def drop_unused(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same triangles without vertices that none of them uses."""
    used, inverse = np.unique(faces.reshape(-1), return_inverse=True)
    return vertices[used], inverse.reshape(-1, 3).astype(np.int32)


def large_components(vertices: np.ndarray, faces: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The connected parts with at least ``share`` of the largest one's area (vertex count would favour noise)."""
    if not len(faces):
        return vertices, faces
    n = len(vertices)
    i, j = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]]).T
    _, label = connected_components(coo_matrix((np.ones(len(i), bool), (i, j)), (n, n)), directed=False)
    face_label = label[faces[:, 0]]
    area = np.bincount(face_label, face_areas(vertices, faces))
    return drop_unused(vertices, faces[(area >= share * area.max())[face_label]])


def face_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """float64 [F]."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals float64 [V, 3], outwards where faces are counter-clockwise; 0 for unused vertices."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    n = np.cross(b - a, c - a)
    out = np.stack([np.bincount(faces.reshape(-1), np.repeat(n[:, k], 3), len(vertices)) for k in range(3)], 1)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-30)


def smooth(vertices: np.ndarray, faces: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Windowed-sinc smoothing (Taubin et al. 1996), which does not shrink; topology unchanged."""
    f = vtkWindowedSincPolyDataFilter()
    f.SetInputData(to_polydata(vertices, faces))
    f.SetNumberOfIterations(iterations)
    f.SetPassBand(0.1)
    f.NonManifoldSmoothingOn()
    f.NormalizeCoordinatesOn()
    f.FeatureEdgeSmoothingOff()
    f.BoundarySmoothingOff()
    f.Update()
    return from_polydata(f.GetOutput())


def decimate(vertices: np.ndarray, faces: np.ndarray, target_faces: int) -> tuple[np.ndarray, np.ndarray]:
    """Quadric edge collapse (Garland and Heckbert 1997) down to about ``target_faces``."""
    if len(faces) <= target_faces:
        return vertices, faces
    f = vtkQuadricDecimation()
    f.SetInputData(to_polydata(vertices, faces))
    f.SetTargetReduction(1.0 - target_faces / len(faces))
    f.VolumePreservationOn()
    f.Update()
    return drop_unused(*from_polydata(f.GetOutput()))

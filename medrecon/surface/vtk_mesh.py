# SPDX-License-Identifier: Apache-2.0
"""Meshes in VTK: polydata, exact distances to a mesh, first hits of rays."""

from __future__ import annotations

import numpy as np
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy
from vtkmodules.vtkCommonCore import reference, vtkPoints
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData, vtkStaticCellLocator


def _points(points: np.ndarray) -> vtkPoints:
    out = vtkPoints()
    out.SetDataTypeToDouble()
    out.SetData(numpy_to_vtk(np.ascontiguousarray(points, np.float64), deep=1))
    return out


def to_polydata(vertices: np.ndarray, faces: np.ndarray) -> vtkPolyData:
    """Copies of float [V, 3] and int [F, 3]."""
    cells = vtkCellArray()
    offsets = np.arange(0, 3 * len(faces) + 1, 3, dtype=np.int64)
    connectivity = np.ascontiguousarray(faces, np.int64).reshape(-1)
    cells.SetData(numpy_to_vtkIdTypeArray(offsets, deep=1), numpy_to_vtkIdTypeArray(connectivity, deep=1))
    out = vtkPolyData()
    out.SetPoints(_points(vertices))
    out.SetPolys(cells)
    return out


def from_polydata(data: vtkPolyData) -> tuple[np.ndarray, np.ndarray]:
    """vertices float64 [V, 3], faces int32 [F, 3] of polydata that holds triangles only."""
    vertices = vtk_to_numpy(data.GetPoints().GetData()).astype(np.float64)
    faces = vtk_to_numpy(data.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int32)
    return vertices, faces


class MeshLocator:
    """Exact distances to a mesh and first hits of straight lines with it."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        self._data = to_polydata(vertices, faces)  # the locator does not keep it alive
        self._locator = vtkStaticCellLocator()
        self._locator.SetDataSet(self._data)
        self._locator.BuildLocator()

    def distances(self, points: np.ndarray) -> np.ndarray:
        """Distance float64 [N] from each point [N, 3] to the nearest point of the triangles."""
        out = np.empty(len(points))
        nearest, cell, sub, squared = [0.0] * 3, reference(0), reference(0), reference(0.0)
        find = self._locator.FindClosestPoint
        for i, p in enumerate(np.asarray(points, np.float64).tolist()):
            find(p, nearest, cell, sub, squared)
            out[i] = squared.get()
        return np.sqrt(out)

    def first_hits(self, origins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Fraction float64 [N] of the way from origin to end at which the mesh is hit first; NaN when it is not."""
        out = np.full(len(origins), np.nan)
        t, sub, x, pcoords = reference(0.0), reference(0), [0.0] * 3, [0.0] * 3
        intersect = self._locator.IntersectWithLine
        for i, (a, b) in enumerate(zip(np.asarray(origins).tolist(), np.asarray(ends).tolist())):
            if intersect(a, b, 0.0, t, x, pcoords, sub):
                out[i] = t.get()
        return out

# SPDX-License-Identifier: Apache-2.0
"""The true surface of what a transfer function shows: an isosurface of the volume in patient millimetres."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from medrecon.errors import StageError
from medrecon.ingest.transfer_functions import TransferFunction
from medrecon.ingest.volume import canonical
from medrecon.ingest.volume_renderer import image_data, world_from_image
from medrecon.types import Mesh, Volume


def isosurface(volume: Volume, transfer: TransferFunction, max_faces: int = 400_000) -> Mesh:
    """Marching cubes at the transfer function's surface value, thinned to about ``max_faces``, in RAS mm."""
    from vtkmodules.util import numpy_support
    from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D

    volume = canonical(volume)
    level = transfer.level()
    image = image_data(volume)
    contour = vtkFlyingEdges3D()
    contour.SetInputData(image)
    contour.SetValue(0, level)
    contour.ComputeNormalsOff()
    contour.ComputeGradientsOff()
    contour.ComputeScalarsOff()
    contour.Update()
    mesh = contour.GetOutput()
    n = mesh.GetNumberOfPolys()
    if n == 0:
        raise StageError(f"the volume has no surface at value {level:g}", "choose another transfer function")
    if n > max_faces:
        mesh = _thinned(mesh, min(volume.spacing_mm) * np.sqrt(n / max_faces))
    points = numpy_support.vtk_to_numpy(mesh.GetPoints().GetData()).astype(np.float64)
    faces = numpy_support.vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int32)
    place = world_from_image(volume)
    return Mesh(points @ place[:3, :3].T + place[:3, 3], faces, unit="mm").validate()


def _thinned(mesh, bin_mm: float):
    """Points that share a cube of ``bin_mm`` become their mean; it lies within the surface's sag over the cube."""
    from vtkmodules.vtkFiltersCore import vtkBinnedDecimation

    x0, x1, y0, y1, z0, z1 = mesh.GetBounds()
    thin = vtkBinnedDecimation()
    thin.SetInputData(mesh)
    thin.AutoAdjustNumberOfDivisionsOff()
    thin.SetNumberOfDivisions(*(max(1, int(np.ceil((b - a) / bin_mm))) for a, b in ((x0, x1), (y0, y1), (z0, z1))))
    thin.SetPointGenerationModeToBinAverages()
    thin.Update()
    return thin.GetOutput()


def write_ply(path: Path, mesh: Mesh) -> None:
    """Binary PLY, float32 vertices, atomically."""
    face = np.empty(len(mesh.faces), np.dtype([("n", "u1"), ("v", "<i4", 3)]))
    face["n"], face["v"] = 3, mesh.faces
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment unit " + mesh.unit + "\n"
        f"element vertex {len(mesh.vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as f:
            f.write(header.encode())
            f.write(mesh.vertices.astype("<f4").tobytes())
            f.write(face.tobytes())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise

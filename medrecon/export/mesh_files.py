# SPDX-License-Identifier: Apache-2.0
"""Surface and sparse points as PLY, OBJ and STL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medrecon.config.base import ComponentConfig
from medrecon.errors import InputError
from medrecon.export.naming import stamped, unit_line
from medrecon.types import Mesh
from medrecon.types.storage import write_bytes_atomic

if TYPE_CHECKING:
    from medrecon.runfolder import RunFolder


def ply_bytes(
    vertices: np.ndarray, faces: np.ndarray | None, colors: np.ndarray | None, comments: tuple[str, ...],
    confidence: np.ndarray | None = None,
) -> bytes:  # fmt: skip
    """Binary little-endian PLY: float64 positions, optional uint8 colours, float32 confidence and triangles."""
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {c}" for c in comments)]
    lines += [f"element vertex {len(vertices)}", *(f"property double {a}" for a in "xyz")]
    fields = [("xyz", "<f8", 3)]
    if colors is not None:
        lines += [f"property uchar {c}" for c in ("red", "green", "blue")]
        fields.append(("rgb", "u1", 3))
    if confidence is not None:
        lines.append("property float confidence")
        fields.append(("confidence", "<f4"))
    table = np.empty(len(vertices), np.dtype(fields))
    table["xyz"] = vertices
    if colors is not None:
        table["rgb"] = colors
    if confidence is not None:
        table["confidence"] = confidence
    body = table.tobytes()
    if faces is not None:
        lines += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
        triangles = np.empty(len(faces), np.dtype([("n", "u1"), ("v", "<i4", 3)]))
        triangles["n"], triangles["v"] = 3, faces
        body += triangles.tobytes()
    return ("\n".join([*lines, "end_header"]) + "\n").encode("ascii", "replace") + body


def obj_bytes(mesh: Mesh, comments: tuple[str, ...]) -> bytes:
    """Wavefront OBJ; colours follow the position (the common extension)."""
    out = [f"# {c}" for c in comments]
    if mesh.colors is None:
        out += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in mesh.vertices.tolist()]
    else:
        rgb = (mesh.colors / 255.0).tolist()
        out += [
            f"v {x:.9g} {y:.9g} {z:.9g} {r:.4f} {g:.4f} {b:.4f}"
            for (x, y, z), (r, g, b) in zip(mesh.vertices.tolist(), rgb)
        ]
    out += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
    return ("\n".join(out) + "\n").encode("ascii", "replace")


def stl_bytes(mesh: Mesh, comment: str) -> bytes:
    """Binary STL. It has no place for colours; the unit stands in the 80-byte header, which must not start "solid"."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    table = np.zeros(len(mesh.faces), np.dtype([("normal", "<f4", 3), ("v", "<f4", (3, 3)), ("attribute", "<u2")]))
    table["normal"], table["v"] = normal, np.stack([a, b, c], 1)
    header = f"medrecon {comment}".encode("ascii", "replace")[:80].ljust(80)
    return header + np.uint32(len(table)).astype("<u4").tobytes() + table.tobytes()


def _surface(run: "RunFolder") -> Mesh:
    mesh = run.mesh
    if not len(mesh.faces):
        raise InputError(f"{run.root} has an empty surface", "rerun with --force surface")
    return mesh


def _write(path: Path, data: bytes) -> Path:
    write_bytes_atomic(path, data)
    return path


class PlyExporterConfig(ComponentConfig):
    pass


class PlyExporter:
    """The surface with its colours and confidences, where there is one, and the sparse points."""

    def __init__(self, config: PlyExporterConfig):
        self.config = config

    def export(self, run: "RunFolder", out_dir: Path) -> list[Path]:
        """Raises InputError when the run has no sparse model."""
        sparse = run.sparse
        scale, comments = sparse.scale, ("made by medrecon", unit_line(sparse.scale))
        points = ply_bytes(scale.metric_from_sfm.apply(sparse.points), None, sparse.colors, comments)
        files = [_write(Path(out_dir) / stamped("points", ".ply", scale), points)]
        if run.has("surface"):
            mesh = _surface(run)
            data = ply_bytes(mesh.vertices, mesh.faces, mesh.colors, comments, mesh.confidence)
            files.insert(0, _write(Path(out_dir) / stamped("surface", ".ply", scale), data))
        return files


class ObjExporterConfig(ComponentConfig):
    pass


class ObjExporter:
    """The surface as Wavefront OBJ."""

    def __init__(self, config: ObjExporterConfig):
        self.config = config

    def export(self, run: "RunFolder", out_dir: Path) -> list[Path]:
        """Raises InputError when the run has no surface."""
        mesh, scale = _surface(run), run.sparse.scale
        data = obj_bytes(mesh, ("made by medrecon", unit_line(scale)))
        return [_write(Path(out_dir) / stamped("surface", ".obj", scale), data)]


class StlExporterConfig(ComponentConfig):
    pass


class StlExporter:
    """The surface as binary STL."""

    def __init__(self, config: StlExporterConfig):
        self.config = config

    def export(self, run: "RunFolder", out_dir: Path) -> list[Path]:
        """Raises InputError when the run has no surface."""
        mesh, scale = _surface(run), run.sparse.scale
        data = stl_bytes(mesh, "UNIT mm" if scale.is_metric else "UNIT scale unknown")
        return [_write(Path(out_dir) / stamped("surface", ".stl", scale), data)]

# SPDX-License-Identifier: Apache-2.0
"""The surface stage: run a mesher, check what it gives, keep it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medrecon.errors import PluginError, StageError
from medrecon.progress import Progress
from medrecon.types import Mesh

if TYPE_CHECKING:
    from medrecon.plugins.contracts import Mesher
    from medrecon.runfolder import RunFolder


def extract(run: "RunFolder", mesher: "Mesher", out_dir: Path, device: str, progress: Progress) -> Mesh:
    """Writes ``mesh.npz`` into ``out_dir`` and returns the mesh.

    Raises:
        StageError: the field holds no surface.
        PluginError: the mesher returns something that is not a valid mesh, or one in the wrong unit.
    """
    who = type(mesher).__name__
    mesh = mesher.mesh(run, device, progress)
    if not isinstance(mesh, Mesh):
        raise PluginError(f"mesher {who} returned {type(mesh).__name__}, not a Mesh")
    try:
        mesh.validate()
    except Exception as e:
        raise PluginError(f"mesher {who} returned a broken mesh: {e}") from e
    if mesh.unit != run.sparse.scale.unit:
        raise PluginError(
            f"mesher {who} returned unit {mesh.unit!r}, the reconstruction's is {run.sparse.scale.unit!r}"
        )
    if not len(mesh.faces):
        raise StageError(f"mesher {who} found no surface", "train longer, or lower its threshold")
    mesh.save(Path(out_dir) / "mesh.npz")
    return mesh

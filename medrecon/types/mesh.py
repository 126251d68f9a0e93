# SPDX-License-Identifier: Apache-2.0
"""Triangle meshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medrecon.errors import InputError
from medrecon.types.storage import read_npz, write_npz


@dataclass(frozen=True, slots=True)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: float64 [V, 3].
        faces: int32 [F, 3], counter-clockwise seen from outside.
        colors: uint8 [V, 3] RGB or None.
        confidence: float32 [V] in 0..1 or None.
        unit: "mm" or "unknown" (the reconstruction's own unit).
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray | None = None
    confidence: np.ndarray | None = None
    unit: str = "unknown"

    def validate(self) -> "Mesh":
        v = len(self.vertices)
        if self.vertices.shape != (v, 3) or not np.isfinite(self.vertices).all():
            raise InputError("mesh: vertices must be finite [V, 3]")
        if self.faces.ndim != 2 or self.faces.shape[1] != 3:
            raise InputError("mesh: faces must be [F, 3]")
        if len(self.faces) and (self.faces.min() < 0 or self.faces.max() >= v):
            raise InputError("mesh: a face refers to a vertex that does not exist")
        if self.unit not in ("mm", "unknown"):
            raise InputError(f"mesh: unit must be 'mm' or 'unknown', got {self.unit!r}")
        return self

    def save(self, path: Path) -> None:
        arrays = {"vertices": self.vertices, "faces": self.faces, "unit": np.array(self.unit)}
        if self.colors is not None:
            arrays["colors"] = self.colors
        if self.confidence is not None:
            arrays["confidence"] = self.confidence
        write_npz(path, arrays)

    @staticmethod
    def load(path: Path) -> "Mesh":
        z = read_npz(path)
        return Mesh(z["vertices"], z["faces"], z.get("colors"), z.get("confidence"), str(z["unit"])).validate()

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
        views: uint16 [V], number of training cameras that see the vertex within 60 degrees of its normal; or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray | None = None
    confidence: np.ndarray | None = None
    unit: str = "unknown"
    views: np.ndarray | None = None

    def validate(self) -> "Mesh":
        v = len(self.vertices)
        if self.vertices.shape != (v, 3) or not np.isfinite(self.vertices).all():
            raise InputError("mesh: vertices must be finite [V, 3]")
        if self.faces.ndim != 2 or self.faces.shape[1] != 3:
            raise InputError("mesh: faces must be [F, 3]")
        if len(self.faces) and (self.faces.min() < 0 or self.faces.max() >= v):
            raise InputError("mesh: a face refers to a vertex that does not exist")
        for name in ("colors", "confidence", "views"):
            value = getattr(self, name)
            if value is not None and len(value) != v:
                raise InputError(f"mesh: {name} must have one row per vertex")
        if self.unit not in ("mm", "unknown"):
            raise InputError(f"mesh: unit must be 'mm' or 'unknown', got {self.unit!r}")
        return self

    def save(self, path: Path) -> None:
        arrays = {"vertices": self.vertices, "faces": self.faces, "unit": np.array(self.unit)}
        if self.colors is not None:
            arrays["colors"] = self.colors
        if self.confidence is not None:
            arrays["confidence"] = self.confidence
        if self.views is not None:
            arrays["views"] = self.views
        write_npz(path, arrays)

    @staticmethod
    def load(path: Path) -> "Mesh":
        z = read_npz(path)
        optional = (z.get("colors"), z.get("confidence"), str(z["unit"]), z.get("views"))
        return Mesh(z["vertices"], z["faces"], *optional).validate()

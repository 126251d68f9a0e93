# SPDX-License-Identifier: Apache-2.0
"""A scalar volume with its place in the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medrecon.errors import InputError


@dataclass(frozen=True, slots=True)
class Volume:
    """Voxels and an affine in millimetres.

    Attributes:
        data: [I, J, K] float32 or int16; CT in Hounsfield units (rescale slope and intercept applied).
        ras_from_ijk_mm: float64 [4, 4]; voxel *centres* (i, j, k) to patient RAS millimetres (NIfTI convention;
            DICOM's LPS is converted on reading).
        modality: "CT", "MR", ... or "".
        notes: facts for the report without identifiers.
    """

    data: np.ndarray
    ras_from_ijk_mm: np.ndarray
    modality: str = ""
    notes: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return tuple(float(x) for x in np.linalg.norm(self.ras_from_ijk_mm[:3, :3], axis=0))

    def validate(self) -> "Volume":
        if self.data.ndim != 3 or min(self.data.shape) < 1:
            raise InputError(f"volume must be three-dimensional, got shape {self.data.shape}")
        if self.ras_from_ijk_mm.shape != (4, 4) or not np.isfinite(self.ras_from_ijk_mm).all():
            raise InputError("volume: the affine must be a finite 4x4 matrix")
        if abs(np.linalg.det(self.ras_from_ijk_mm[:3, :3])) < 1e-9:
            raise InputError("volume: the affine is singular (a voxel has no extent)", "check spacing and directions")
        if np.issubdtype(self.data.dtype, np.floating) and not np.isfinite(self.data).all():
            raise InputError("volume holds NaN or infinite voxels", "fill or crop them before the run")
        return self

# SPDX-License-Identifier: Apache-2.0
"""The density of the field as a NIfTI volume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from pydantic import Field

from medrecon.config.base import ComponentConfig
from medrecon.export.naming import stamped
from medrecon.progress import Quiet
from medrecon.surface.density_grid import sample_density
from medrecon.types.storage import write_bytes_atomic

if TYPE_CHECKING:
    from medrecon.runfolder import RunFolder


class NiftiExporterConfig(ComponentConfig):
    resolution: int = Field(160, ge=8, le=1024, description="voxels along the longest side of the scene")
    device: str = Field("cpu", description="torch device the field is evaluated on")


class NiftiExporter:
    """Density as float32 NIfTI-1, voxel values per millimetre, affine in millimetres.

    The world of the affine is the metric frame of the reconstruction, read as RAS; it is the patient's only where the
    scale comes from poses known in patient coordinates. Without a metric scale the affine and the values are in the
    reconstruction's own unit, the header's unit code is 0 (unknown) and its description says so.
    """

    def __init__(self, config: NiftiExporterConfig):
        self.config = config

    def export(self, run: "RunFolder", out_dir: Path) -> list[Path]:
        """Raises InputError when the run has no trained field."""
        from medrecon.radiance import load_field

        renderer, scene = load_field(run, self.config.device)
        grid = sample_density(renderer, scene, self.config.resolution, self.config.device, Quiet())
        scale = run.sparse.scale
        metric_from_field = scale.metric_from_sfm @ scene.field_from_sfm.inverse()
        metric_from_ijk = metric_from_field @ grid.field_from_ijk
        # An extinction is per length: one field unit is metric_from_field.scale millimetres.
        image = nib.Nifti1Image((grid.values / metric_from_field.scale).astype(np.float32), metric_from_ijk.matrix())
        image.header.set_xyzt_units("mm" if scale.is_metric else "unknown")
        image.header["descrip"] = b"medrecon density, 1/mm" if scale.is_metric else b"medrecon density, SCALE UNKNOWN"
        image.set_qform(metric_from_ijk.matrix(), code="unknown")  # one transform, not two that may disagree
        image.set_sform(metric_from_ijk.matrix(), code="aligned")
        path = Path(out_dir) / stamped("density", ".nii", scale)
        write_bytes_atomic(path, image.to_bytes())
        return [path]

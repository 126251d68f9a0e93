# SPDX-License-Identifier: Apache-2.0
"""The density of the field as a NIfTI volume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from pydantic import Field

from medrecon.config.base import ComponentConfig
from medrecon.errors import InputError
from medrecon.export.naming import stamped
from medrecon.progress import Quiet
from medrecon.surface.density_grid import sample_density
from medrecon.types.storage import write_bytes_atomic

if TYPE_CHECKING:
    from medrecon.runfolder import RunFolder


class NiftiExporterConfig(ComponentConfig):
    resolution: int = Field(160, ge=8, le=1024, description="voxels along the longest side of the scene")
    water_per_mm: float | None = Field(
        None, gt=0, le=1, description="attenuation of water in 1/mm (0.02 at about 70 keV): write Hounsfield units "
        "(renderer xray, metric scale); null: the density itself"
    )  # fmt: skip
    device: str = Field("cpu", description="torch device the field is evaluated on")


class NiftiExporter:
    """Density as float32 NIfTI-1, voxel values per millimetre, affine in millimetres.

    With the renderer xray the density is the attenuation of X-rays; ``water_per_mm`` turns it into Hounsfield units,
    1000 (mu / mu of water - 1).

    The world of the affine is the metric frame of the reconstruction, read as RAS; it is the patient's only where the
    scale comes from poses known in patient coordinates. Without a metric scale the affine and the values are in the
    reconstruction's own unit, the header's unit code is 0 (unknown) and its description says so.
    """

    def __init__(self, config: NiftiExporterConfig):
        self.config = config

    def export(self, run: "RunFolder", out_dir: Path) -> list[Path]:
        """Raises InputError when the run has no trained field, or no scale where Hounsfield units are wanted."""
        from medrecon.radiance import load_field

        renderer, scene = load_field(run, self.config.device)
        grid = sample_density(renderer, scene, self.config.resolution, self.config.device, Quiet())
        scale, water = run.sparse.scale, self.config.water_per_mm
        if water is not None and not scale.is_metric:
            raise InputError(
                "Hounsfield units need attenuation in 1/mm, and the scale of this run is unknown",
                "give a scale (scale: {from: known-poses}), or leave export.nifti.water_per_mm out",
            )
        metric_from_field = scale.metric_from_sfm @ scene.field_from_sfm.inverse()
        metric_from_ijk = metric_from_field @ grid.field_from_ijk
        # An extinction is per length: one field unit is metric_from_field.scale millimetres.
        values = grid.values / metric_from_field.scale
        if water is not None:
            values = 1000 * (values / water - 1)
        image = nib.Nifti1Image(values.astype(np.float32), metric_from_ijk.matrix())
        image.header.set_xyzt_units("mm" if scale.is_metric else "unknown")
        what = "attenuation" if getattr(renderer, "translucent", False) else "density"
        unit = "HU" if water is not None else "1/mm" if scale.is_metric else "SCALE UNKNOWN"
        image.header["descrip"] = f"medrecon {what}, {unit}".encode()
        image.set_qform(metric_from_ijk.matrix(), code="unknown")  # one transform, not two that may disagree
        image.set_sform(metric_from_ijk.matrix(), code="aligned")
        path = Path(out_dir) / stamped("hounsfield" if water is not None else what, ".nii", scale)
        write_bytes_atomic(path, image.to_bytes())
        return [path]

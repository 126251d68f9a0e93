# SPDX-License-Identifier: Apache-2.0
"""Area, enclosed volume and extent of the reconstructed surface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from medrecon.config.base import ComponentConfig
from medrecon.progress import Progress
from medrecon.surface.cleanup import face_areas
from medrecon.surface.measure import measure_geometry
from medrecon.types import Mesh, Metric

if TYPE_CHECKING:
    from medrecon.runfolder import RunFolder


class GeometryAnalysisConfig(ComponentConfig):
    coverage_views: int = Field(
        3, ge=1, le=65535, description="cameras that must look at a place within 60 degrees for it to be well seen"
    )


class GeometryAnalysis:
    """Gives surface_area_mm2, surface_volume_mm3, bbox_x_mm, bbox_y_mm, bbox_z_mm, and where the mesher says who sees
    what, well_seen_percent: how much of the surface's area ``coverage_views`` training cameras see well.

    Without a metric scale the names end in _units, _units2, _units3 instead. Sigma is what the scale's uncertainty
    does to the figure (a length times k, an area 2 k, a volume 3 k); the surface's own noise is not in it.
    """

    def __init__(self, config: GeometryAnalysisConfig):
        self.config = config

    def analyse(self, run: "RunFolder", progress: Progress) -> list[Metric]:
        scale, mesh = run.sparse.scale, run.mesh
        g = measure_geometry(mesh)
        suffix, unit = ("mm", "mm") if scale.is_metric else ("units", "units")
        note = "" if scale.is_metric else "scale unknown"

        def metric(name: str, value: float | None, power: int, reason: str = "") -> Metric:
            known = value is not None and scale.is_metric and scale.relative_sigma is not None
            sigma = power * scale.relative_sigma * value if known else None
            exponent = str(power) if power > 1 else ""
            words = "; ".join(w for w in (note, reason) if w)
            return Metric(
                f"{name}_{suffix}{exponent}", value, f"{unit}^{power}" if power > 1 else unit, "", sigma,
                len(mesh.faces), "surface", words,
            )  # fmt: skip

        extent = g.bbox_max - g.bbox_min
        return [
            metric("surface_area", g.area, 2),
            metric("surface_volume", g.volume, 3, g.volume_reason),
            *(metric(f"bbox_{axis}", float(extent[k]), 1) for k, axis in enumerate("xyz")),
            *self._coverage(mesh),
        ]

    def _coverage(self, mesh: Mesh) -> list[Metric]:
        if mesh.views is None:
            return []
        area = face_areas(mesh.vertices, mesh.faces)
        well = (mesh.views[mesh.faces] >= self.config.coverage_views).all(1)
        share = 100 * float(np.sum(area[well]) / max(float(area.sum()), 1e-300))
        note = f"of the surface's area: {self.config.coverage_views} cameras or more look at it within 60 degrees"
        return [Metric("well_seen_percent", share, "%", "higher", None, len(mesh.faces), "surface", note)]

# SPDX-License-Identifier: Apache-2.0
"""Surface by fusing rendered depth into a truncated signed distance volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from medrecon.errors import StageError
from medrecon.progress import Progress
from medrecon.surface.depth_views import training_depths
from medrecon.surface.finish import FinishConfig, finish
from medrecon.surface.fusion import fuse
from medrecon.types import Mesh

if TYPE_CHECKING:
    from medrecon.runfolder import RunFolder


class TsdfMesherConfig(FinishConfig):
    resolution: int = Field(192, ge=8, le=1024, description="voxels along the longest side of the scene")
    truncation: float = Field(
        4.0, ge=1, le=32, description="voxels before and behind a rendered depth within which it says something"
    )
    min_weight: float = Field(
        0.5, ge=0, description="drop voxels seen by less; 1 is one view that looks squarely at a sharp surface"
    )


class TsdfMesher:
    """Zero level (Lewiner et al. 2003) of the median depths of the training views, fused as fusion.py has it.

    Only voxels that some view saw take part: what lies behind the first surface is not made up, so that a wall seen
    from one side is a sheet. ``confidence`` is that of confidence.py.
    """

    def __init__(self, config: TsdfMesherConfig):
        self.config = config

    def mesh(self, run: "RunFolder", device: str, progress: Progress) -> Mesh:
        """Raises StageError when the field holds no surface, or none that enough cameras saw."""
        from medrecon.radiance import load_field

        c = self.config
        renderer, scene = load_field(run, device)
        views = training_depths(renderer, scene, device, progress)
        if not any((v.depth > 0).any() for v in views):
            raise StageError(
                "the trained field is transparent in every training view: there is no surface to extract",
                "train longer, or give more pictures",
            )
        volume = fuse(views, scene.bounds_min, scene.bounds_max, c.resolution, c.truncation, progress)
        vertices, faces = volume.surface(c.min_weight)
        if not len(faces):
            raise StageError(
                "the rendered depths hold no surface inside the scene", "lower min_weight, or train longer"
            )
        return finish(vertices, faces, volume.step, scene, run, views, c, progress)

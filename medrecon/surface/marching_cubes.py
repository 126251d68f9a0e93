# SPDX-License-Identifier: Apache-2.0
"""Surface by marching cubes on the field's density, kept where the training cameras saw it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field
from skimage.measure import marching_cubes

from medrecon.errors import StageError
from medrecon.progress import Progress
from medrecon.surface.density_grid import sample_density
from medrecon.surface.depth_views import training_depths
from medrecon.surface.finish import FinishConfig, finish
from medrecon.surface.threshold import calibrate_threshold
from medrecon.types import Mesh

if TYPE_CHECKING:
    from medrecon.runfolder import RunFolder

_CONFIDENCE_SIZE = 0.5  # of the training pictures: depth maps that only confidences are read from


class MarchingCubesMesherConfig(FinishConfig):
    resolution: int = Field(160, ge=8, le=1024, description="density samples along the longest side of the scene")
    threshold: Literal["auto"] | float = Field(
        "auto", description="density of the surface per field unit; auto matches it to the rendered depth"
    )


class MarchingCubesMesher:
    """Isosurface (Lewiner et al. 2003) of the density; in millimetres when the scale is known.

    ``confidence`` is that of confidence.py.
    """

    def __init__(self, config: MarchingCubesMesherConfig):
        self.config = config

    def mesh(self, run: "RunFolder", device: str, progress: Progress) -> Mesh:
        """Raises StageError when the field holds no surface, or none that enough cameras saw."""
        from medrecon.radiance import load_field

        c = self.config
        renderer, scene = load_field(run, device)
        grid = sample_density(renderer, scene, c.resolution, device, progress)
        level = (
            calibrate_threshold(renderer, scene, grid, device, progress)
            if c.threshold == "auto"
            else float(c.threshold)
        )
        if not float(grid.values.min()) < level < float(grid.values.max()):
            raise StageError(
                f"no surface: density {level:.3g} is outside the field's range "
                f"{grid.values.min():.3g} to {grid.values.max():.3g}",
                "use threshold: auto, or train longer",
            )
        # Its "descent" would turn triangles towards the dense side; ours are counter-clockwise seen from outside.
        vertices, faces, _, _ = marching_cubes(grid.values, level, gradient_direction="ascent")
        vertices, faces = grid.field_from_ijk.apply(vertices), faces.astype(np.int32)
        views = training_depths(renderer, scene, device, progress, _CONFIDENCE_SIZE)
        return finish(vertices, faces, grid.step, scene, run, views, c, progress)

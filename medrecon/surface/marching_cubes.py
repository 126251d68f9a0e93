# SPDX-License-Identifier: Apache-2.0
"""Surface by marching cubes on the field's density, kept where the training cameras saw it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field
from skimage.measure import marching_cubes

from medrecon.config.base import ComponentConfig
from medrecon.errors import StageError
from medrecon.progress import Progress
from medrecon.surface.cleanup import decimate, drop_unused, largest_component, smooth, vertex_normals
from medrecon.surface.colour import ColourBlend
from medrecon.surface.density_grid import sample_density
from medrecon.surface.threshold import calibrate_threshold
from medrecon.surface.visibility import sights
from medrecon.types import Mesh

if TYPE_CHECKING:
    from medrecon.radiance.scene import Scene
    from medrecon.runfolder import RunFolder


class MarchingCubesMesherConfig(ComponentConfig):
    resolution: int = Field(160, ge=8, le=1024, description="density samples along the longest side of the scene")
    threshold: Literal["auto"] | float = Field(
        "auto", description="density of the surface per field unit; auto matches it to the rendered depth"
    )
    largest_component: bool = Field(True, description="keep only the connected part with the largest area")
    min_views: int = Field(2, ge=0, description="drop what fewer training cameras saw; 0 keeps everything")
    smooth: int = Field(0, ge=0, le=200, description="iterations of windowed-sinc smoothing")
    max_faces: int = Field(0, ge=0, description="decimate to about this many faces; 0 keeps them all")
    colour: bool = Field(True, description="colour the vertices from the training pictures")


class MarchingCubesMesher:
    """Isosurface (Lewiner et al. 2003) of the density; in millimetres when the scale is known.

    ``confidence`` of a vertex is the share of the training cameras that see it.
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
        if c.min_views:
            seen = self._seen(vertices, faces, grid.step, scene, progress)
            vertices, faces = drop_unused(vertices, faces[(seen >= c.min_views)[faces].all(1)])
            if not len(faces):
                raise StageError(
                    f"no part of the surface was seen by {c.min_views} training cameras",
                    "lower surface.min_views, or use threshold: auto",
                )
        if c.largest_component:
            vertices, faces = largest_component(vertices, faces)
        if c.smooth:
            vertices, faces = smooth(vertices, faces, c.smooth)
        if c.max_faces:
            vertices, faces = decimate(vertices, faces, c.max_faces)
        progress.say(f"surface of {len(vertices)} vertices and {len(faces)} triangles")
        colours, confidence = self._paint(vertices, faces, grid.step, scene, run, progress)
        scale = run.sparse.scale
        metric_from_field = scale.metric_from_sfm @ scene.field_from_sfm.inverse()
        return Mesh(metric_from_field.apply(vertices), faces, colours, confidence, scale.unit).validate()

    def _sights(self, vertices: np.ndarray, faces: np.ndarray, step: float, scene: "Scene"):
        poses = {i: scene.field_from_sfm.transform_pose(scene.cam_from_sfm[i]) for i in scene.train_ids}
        return sights(vertices, vertex_normals(vertices, faces), step, scene.cameras, poses, list(scene.train_ids))

    def _seen(self, vertices, faces, step: float, scene: "Scene", progress: Progress) -> np.ndarray:
        """Number of training cameras that see each vertex, int [V]."""
        progress.begin(len(scene.train_ids), "views")
        n = np.zeros(len(vertices), int)
        for sight in self._sights(vertices, faces, step, scene):
            n += sight.visible
            progress.advance(1)
        return n

    def _paint(self, vertices, faces, step: float, scene: "Scene", run: "RunFolder", progress: Progress):
        """Colours uint8 [V, 3] or None, and the share of the training cameras that see each vertex, float32 [V]."""
        frames = run.frames.by_id()
        blend, n = ColourBlend(len(vertices)), np.zeros(len(vertices))
        progress.begin(len(scene.train_ids), "views")
        for sight in self._sights(vertices, faces, step, scene):
            n += sight.visible
            if self.config.colour and sight.frame_id in frames:
                index, camera = np.flatnonzero(sight.visible), scene.cameras[sight.frame_id]
                blend.add(
                    frames[sight.frame_id], (camera.width_px, camera.height_px), sight.xy_px[index],
                    sight.cosine[index], index,
                )  # fmt: skip
            progress.advance(1)
        confidence = (n / max(1, len(scene.train_ids))).astype(np.float32)
        return (blend.result() if self.config.colour else None), confidence

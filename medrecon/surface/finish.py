# SPDX-License-Identifier: Apache-2.0
"""From raw triangles to the mesh of a run: only what was seen, cleaned, coloured, with a confidence per vertex."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from medrecon.config.base import ComponentConfig
from medrecon.errors import StageError
from medrecon.progress import Progress
from medrecon.surface.cleanup import decimate, drop_unused, large_components, smooth, vertex_normals
from medrecon.surface.colour import ColourBlend
from medrecon.surface.confidence import Support
from medrecon.surface.visibility import Sight, sights, unmasked
from medrecon.types import Mesh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medrecon.radiance.scene import Scene
    from medrecon.runfolder import RunFolder
    from medrecon.surface.depth_views import DepthView


class FinishConfig(ComponentConfig):
    """Options that every built-in mesher has."""

    min_component: float = Field(
        0.001, ge=0, le=1, description="drop connected parts with less than this share of the largest one's area; "
        "1 keeps that alone"
    )  # fmt: skip
    min_views: int = Field(2, ge=0, description="drop what fewer training cameras saw; 0 keeps everything")
    smooth: int = Field(0, ge=0, le=200, description="iterations of windowed-sinc smoothing")
    max_faces: int = Field(0, ge=0, description="decimate to about this many faces; 0 keeps them all")
    colour: bool = Field(True, description="colour the vertices from the training pictures")


def finish(
    vertices: np.ndarray, faces: np.ndarray, step: float, scene: "Scene", run: "RunFolder", views: "list[DepthView]",
    options: FinishConfig, progress: Progress,
) -> Mesh:  # fmt: skip
    """The mesh of the run, in millimetres when the scale is known.

    Args:
        vertices, faces: in the field frame.
        step: typical distance of neighbouring vertices.
        views: depth maps of the training cameras, for the confidence (confidence.py).

    Raises StageError when no part was seen by enough cameras.
    """
    if options.min_views:
        seen = np.zeros(len(vertices), int)
        for sight in _sights(vertices, faces, step, scene, run, progress):
            seen += sight.visible
        vertices, faces = drop_unused(vertices, faces[(seen >= options.min_views)[faces].all(1)])
        if not len(faces):
            raise StageError(
                f"no part of the surface was seen by {options.min_views} training cameras",
                "lower surface.min_views, or train longer",
            )
    vertices, faces = large_components(vertices, faces, options.min_component)
    if options.smooth:
        vertices, faces = smooth(vertices, faces, options.smooth)
    if options.max_faces:
        vertices, faces = decimate(vertices, faces, options.max_faces)
    progress.say(f"surface of {len(vertices)} vertices and {len(faces)} triangles")
    colours, support = _paint(vertices, faces, step, scene, run, views, options.colour, progress)
    scale = run.sparse.scale
    metric_from_field = scale.metric_from_sfm @ scene.field_from_sfm.inverse()
    placed = metric_from_field.apply(vertices)
    return Mesh(placed, faces, colours, support.confidence(), scale.unit, support.views).validate()


def _sights(
    vertices: np.ndarray, faces: np.ndarray, step: float, scene: "Scene", run: "RunFolder", progress: Progress
) -> "Iterator[Sight]":
    """What each training camera sees, without what its mask hides."""
    poses = {i: scene.cam_from_field(scene.cam_from_sfm[i]) for i in scene.train_ids}
    frames = run.frames.by_id()
    progress.begin(len(scene.train_ids), "views")
    for sight in sights(vertices, vertex_normals(vertices, faces), step, scene.cameras, poses, list(scene.train_ids)):
        yield unmasked(sight, frames.get(sight.frame_id), scene.cameras[sight.frame_id])
        progress.advance(1)


def _paint(
    vertices: np.ndarray, faces: np.ndarray, step: float, scene: "Scene", run: "RunFolder", views: "list[DepthView]",
    colour: bool, progress: Progress,
) -> tuple[np.ndarray | None, Support]:  # fmt: skip
    """Colours uint8 [V, 3] or None, and how well each vertex was seen."""
    frames, by_id = run.frames.by_id(), {v.frame_id: v for v in views}
    blend, support = ColourBlend(len(vertices)), Support(vertices, step)
    for sight in _sights(vertices, faces, step, scene, run, progress):
        support.add(sight, by_id[sight.frame_id])
        if colour and sight.frame_id in frames:
            index, camera = np.flatnonzero(sight.visible), scene.cameras[sight.frame_id]
            blend.add(
                frames[sight.frame_id], (camera.width_px, camera.height_px), sight.xy_px[index],
                sight.cosine[index], index,
            )  # fmt: skip
    return (blend.result() if colour else None), support

# SPDX-License-Identifier: Apache-2.0
"""Matter that hangs in the air between the lens and what there is to see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from medrecon.config.base import ComponentConfig
from medrecon.progress import Progress
from medrecon.types import Metric

if TYPE_CHECKING:
    from medrecon.runfolder import RunFolder

LEAST_POINTS = 10  # of a view, below which nobody knows what is near


class FloatersAnalysisConfig(ComponentConfig):
    nearer_than: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="a ray that ends nearer than this part of the depth of the view's nearest points has met a floater",
    )


class FloatersAnalysis:
    """Gives floaters_percent: share of the held-out views' rays that end in the air before the lens.

    A ray ends at its median depth, where half of the light is gone. The nearest points of a view are the sparse points
    seen in it, at the first percentile of their z-depth. Walls on which no point was found may be somewhat nearer than
    any point: hence half of that depth. Rays under a mask do not count. None where no view has a median depth.
    """

    def __init__(self, config: FloatersAnalysisConfig):
        self.config = config

    def analyse(self, run: "RunFolder", progress: Progress) -> list[Metric]:
        """Raises InputError when the render stage is missing."""
        from medrecon.radiance.pictures import training_picture
        from medrecon.radiance.renders import Renders

        sparse, frames = run.sparse, run.frames.by_id()
        views = [v for v in Renders.load(run.stage_dir("render")).views if v.frame_id in frames]
        point_of = np.repeat(np.arange(len(sparse.points)), np.diff(sparse.track_offsets))
        rays = caught = without = 0
        progress.begin(len(views), "views")
        for view in views:
            progress.advance(1)
            seen = sparse.points[point_of[sparse.track_frame_ids == view.frame_id]]
            depths = sparse.cam_from_world[view.frame_id].apply(seen)[:, 2]
            depths = depths[depths > 0]
            if view.maps_path is None or len(depths) < LEAST_POINTS:
                without += 1
                continue
            median = view.load_maps().median_sfm
            camera = sparse.cameras[view.frame_id].scaled(median.shape[1], median.shape[0])
            _, mask = training_picture(frames[view.frame_id], camera)
            nearest = self.config.nearer_than * np.percentile(depths, 1)
            counted = np.ones(median.shape, bool) if mask is None else mask
            rays += int(counted.sum())
            caught += int((counted & (median > 0) & (median < nearest)).sum())
        note = f"rays that end nearer than {self.config.nearer_than:g} of the depth of the nearest points seen"
        if without:
            note += f"; {without} of {len(views)} views have no median depth, or too few points"
        value = 100 * caught / rays if rays else None
        return [Metric("floaters_percent", value, "%", "lower", None, rays, "held-out renders, median depth", note)]

# SPDX-License-Identifier: Apache-2.0
"""Global structure from motion: all rotations first, then all positions and points together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from medrecon.errors import StageError
from medrecon.progress import Progress
from medrecon.sfm.cameras import camera_groups
from medrecon.sfm.options import MapperConfig
from medrecon.sfm.selection import finish, keypoints_only, largest, require_material
from medrecon.types import Features, FrameSet, MatchGraph, SparseModel


class GlobalMapperConfig(MapperConfig):
    """Options of the global mapper."""

    min_tri_angle_deg: float = Field(1.0, ge=0, description="points seen under a smaller angle are dropped")


class GlobalMapper:
    """No first pair and no drift along the way, but it needs a well connected view graph (COLMAP's GLOMAP)."""

    def __init__(self, config: GlobalMapperConfig):
        self.config = config

    def map(
        self,
        frames: FrameSet,
        features: Mapping[int, Features],
        graph: MatchGraph,
        work_dir: Path,
        seed: int,
        progress: Progress,
    ) -> SparseModel:
        """See :class:`medrecon.plugins.contracts.Mapper`.  The same seed gives the same bits with ``threads: 1``."""
        from medrecon.sfm import pycolmap_backend as colmap

        c = self.config
        require_material(frames, graph, c.min_num_matches)
        features = keypoints_only(frames, features)
        groups, focal_source = camera_groups(frames, features, graph, c)
        progress.say(f"focal length: {focal_source}")
        attempts = [f"focal length: {focal_source}"]
        if len({g.fixed for g in groups}) > 1:
            attempts.append("some intrinsics are known: the global mapper can only keep all of them fixed, and does")
            progress.say(attempts[-1])
        database = work_dir / "database.db"
        image_of = colmap.write_database(database, groups, features, graph, c.min_num_matches)
        progress.begin(len(frames), "frames")
        models = colmap.map_global(
            database,
            image_of,
            groups,
            seed=seed,
            threads=c.threads,
            min_num_matches=c.min_num_matches,
            min_model_size=min(c.min_model_size, len(frames)),
            min_tri_angle_deg=c.min_tri_angle_deg,
        )
        best = largest(models)
        if best is None:
            raise StageError(
                "no camera could be placed by the global mapper: the relative poses of the pairs do not agree",
                "use the incremental mapper (sfm: {name: incremental}), or known intrinsics (sfm.focal_px)",
            )
        progress.advance(len(best.cam_from_world), registered=len(best.cam_from_world))
        attempts.append(f"global: {len(best.cam_from_world)} of {len(frames)} frames, {len(best.points)} points")
        progress.say(attempts[-1])
        return finish(best, frames, features, graph, c.min_num_matches, 0, attempts, config=c, progress=progress)

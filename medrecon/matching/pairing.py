# SPDX-License-Identifier: Apache-2.0
"""Which pairs of frames to match: every one, neighbours in time with loop closing, or neighbours in space."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from medrecon.config import ComponentConfig
from medrecon.errors import ConfigError
from medrecon.matching.global_descriptor import describe
from medrecon.types import Features, FrameSet


class ExhaustivePairingConfig(ComponentConfig):
    pass


class ExhaustivePairing:
    """Every pair: n * (n - 1) / 2 of them."""

    def __init__(self, config: ExhaustivePairingConfig):
        self.config = config

    def pairs(self, frames: FrameSet, features: Mapping[int, Features]) -> list[tuple[int, int]]:
        """(frame_id_a, frame_id_b), a before b in the set."""
        ids = [f.frame_id for f in frames.frames]
        return [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]


class NoPairingConfig(ComponentConfig):
    pass


class NoPairing:
    """No pair at all, for pictures in which no point looks the same from elsewhere, as in radiographs. Nothing is
    matched then; the poses must be known (mapper known-poses with triangulate: false).
    """

    matches_nothing = True

    def __init__(self, config: NoPairingConfig):
        self.config = config

    def pairs(self, frames: FrameSet, features: Mapping[int, Features]) -> list[tuple[int, int]]:
        """Empty."""
        return []


class SequentialPairingConfig(ComponentConfig):
    overlap: int = Field(10, ge=1, description="each frame is matched with this many that follow")
    quadratic: bool = Field(True, description="also with the 2nd, 4th, 8th, ... that follows, up to 2^overlap")
    loop_every: int = Field(5, ge=0, description="every such frame also looks for the same place elsewhere; 0: never")
    loop_matches: int = Field(5, ge=1, description="frames it is matched with: those that look most alike")


class SequentialPairing:
    """Neighbours in time; loops are closed by matching frames that look alike though they are far apart in time."""

    def __init__(self, config: SequentialPairingConfig):
        self.config = config

    def pairs(self, frames: FrameSet, features: Mapping[int, Features]) -> list[tuple[int, int]]:
        """(frame_id_a, frame_id_b), a before b in the set, sorted by position."""
        c = self.config
        ids = [f.frame_id for f in frames.frames]
        n = len(ids)
        steps = set(range(1, c.overlap + 1))
        if c.quadratic:
            steps |= {2**k for k in range(1, c.overlap + 1)}
        found = {(i, i + s) for s in steps for i in range(n - s)}
        if c.loop_every and n > c.overlap + 1:
            found |= self._loops(ids, features)
        return [(ids[i], ids[j]) for i, j in sorted(found)]

    def _loops(self, ids: list[int], features: Mapping[int, Features]) -> set[tuple[int, int]]:
        """Positions (i, j), i < j, further apart than the overlap."""
        c = self.config
        vectors, _ = describe(features, ids)
        found = set()
        for i in range(0, len(ids), c.loop_every):
            alike = vectors @ vectors[i]
            far = np.abs(np.arange(len(ids)) - i) > c.overlap
            usable = np.flatnonzero(far & (alike > 0))
            best = usable[np.argsort(-alike[usable], kind="stable")][: c.loop_matches]
            found |= {(min(i, int(j)), max(i, int(j))) for j in best}
        return found


class FromPosesPairingConfig(ComponentConfig):
    neighbours: int = Field(20, ge=1, description="each camera is matched with this many nearest ones")
    max_angle_deg: float = Field(
        60.0, gt=0, le=180, description="cameras whose viewing directions differ more are not matched"
    )
    max_distance_mm: float | None = Field(None, gt=0, description="nor cameras further apart than this; null: no limit")


class FromPosesPairing:
    """Cameras that are near and look the same way, where poses are known beforehand (a tracker, a robot)."""

    def __init__(self, config: FromPosesPairingConfig):
        self.config = config

    def pairs(self, frames: FrameSet, features: Mapping[int, Features]) -> list[tuple[int, int]]:
        """(frame_id_a, frame_id_b), a before b in the set, sorted by position.

        Raises:
            ConfigError: a frame has no known pose.
        """
        c = self.config
        lacking = [f.name for f in frames.frames if f.cam_from_world_mm is None]
        if lacking:
            raise ConfigError(
                f"pairing 'from-poses' needs known poses, but {len(lacking)} of {len(frames)} frames have none "
                f"(the first is {lacking[0]})",
                "use pairing: {name: sequential} for a video, {name: exhaustive} else, or give the source a poses file",
            )
        poses = [f.cam_from_world_mm for f in frames.frames]
        centers = np.array([p.center for p in poses])
        axes = np.array([p.rotation[2] for p in poses])
        cosine = np.cos(np.deg2rad(c.max_angle_deg))
        found = set()
        for i in range(len(poses)):
            distance = np.linalg.norm(centers - centers[i], axis=1)
            ok = (axes @ axes[i] >= cosine - 1e-12) & (np.arange(len(poses)) != i)
            if c.max_distance_mm is not None:
                ok &= distance <= c.max_distance_mm
            usable = np.flatnonzero(ok)
            best = usable[np.argsort(distance[usable], kind="stable")][: c.neighbours]
            found |= {(min(i, int(j)), max(i, int(j))) for j in best}
        ids = [f.frame_id for f in frames.frames]
        return [(ids[i], ids[j]) for i, j in sorted(found)]

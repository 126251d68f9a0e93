# SPDX-License-Identifier: Apache-2.0
"""Chooses the frames worth reconstructing from: sharp, well exposed, without glare, and from different places."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from medrecon.config import ComponentConfig
from medrecon.errors import InputError
from medrecon.ingest.frame_quality import FrameQuality, measure, motion
from medrecon.progress import Progress
from medrecon.types import DroppedFrame, FrameSet

# Two views have no redundancy: nothing could be verified.
MIN_FRAMES = 3


class AllKeyframerConfig(ComponentConfig):
    pass


class AllKeyframer:
    """Keeps every frame."""

    def __init__(self, config: AllKeyframerConfig):
        self.config = config

    def select(self, frames: FrameSet, progress: Progress) -> FrameSet:
        """The set as it is.  Raises InputError for fewer than three frames."""
        return _need_enough(frames)


class QualityKeyframerConfig(ComponentConfig):
    target: int | None = Field(
        None, ge=MIN_FRAMES, description="keep at most this many, spread evenly over the motion; null: no limit"
    )
    min_sharpness: float = Field(
        0.45, ge=0, le=1, description="least sharpness as a fraction of the median of the neighbouring frames; 0: off"
    )
    neighbours: int = Field(10, ge=1, description="frames on either side that sharpness and glare are compared with")
    min_brightness: float = Field(
        0.12, ge=0, le=1, description="drop frames whose brightest percent stays below this (0 black, 1 white); 0: off"
    )
    max_brightness: float = Field(
        0.92, ge=0, le=1, description="drop frames whose darkest percent lies above this; 1: off"
    )
    max_glare: float = Field(
        0.15,
        ge=0,
        le=1,
        description="drop frames whose glare covers this much more of the view than in their neighbours; 1: off",
    )
    min_motion: float = Field(
        0.004, ge=0, le=1, description="drop frames that moved less than this fraction of the image diagonal since "
        "the last one kept; only in ordered sets; 0: off"
    )  # fmt: skip


class QualityKeyframer:
    """Drops dark, bright, glaring, blurred and still frames; then thins to a target count.

    Sharpness is judged against neighbours because it depends on what is looked at. Glare likewise: a white
    background is bright in every frame and no fault of one. Where frames are thinned to the target, the sharpest
    of each stretch of equal motion stays.
    """

    def __init__(self, config: QualityKeyframerConfig):
        self.config = config

    def select(self, frames: FrameSet, progress: Progress) -> FrameSet:
        """The frames to use; the others stand in ``dropped``, each with figure and threshold.

        Raises:
            InputError: fewer than three frames are given or left, or a picture cannot be read.
        """
        _need_enough(frames)
        progress.begin(len(frames), "frames")
        views = measure(frames.frames, progress)
        reasons = self._poor(views)
        good = [v for v in views if v.frame.frame_id not in reasons]
        if frames.ordered and good:
            good, moved = self._moving(good, reasons)
        else:
            moved = np.ones(len(good))
        if self.config.target is not None and len(good) > self.config.target:
            good = self._thin(good, moved, reasons, frames.ordered)
        if len(good) < MIN_FRAMES:
            tally = Counter(r.kind for r in reasons.values())
            told = ", ".join(f"{n} {kind}" for kind, n in tally.most_common())
            raise InputError(
                f"only {len(good)} of {len(frames)} frames would be kept ({told}); at least {MIN_FRAMES} are needed",
                "set keyframes to {name: all}, or lower the thresholds that dropped most (min_sharpness, min_motion)",
            )
        dropped = tuple(
            DroppedFrame(f.frame_id, f.name, reasons[f.frame_id].words) for f in frames.frames if f.frame_id in reasons
        )
        if dropped:
            tally = Counter(r.kind for r in reasons.values())
            told = ", ".join(f"{n} {kind}" for kind, n in tally.most_common())
            progress.say(f"{len(good)} of {len(frames)} frames kept; left out: {told}")
        return frames.subset([v.frame.frame_id for v in good], dropped)

    def _poor(self, views: list[FrameQuality]) -> dict[int, "_Reason"]:
        """Frames that fail on their own picture. Dark ones do not count as neighbours for sharpness."""
        c, reasons = self.config, {}
        for v in views:
            if v.bright < c.min_brightness:
                reasons[v.frame.frame_id] = _Reason(
                    "dark", f"dark: its brightest percent reaches {v.bright:.2f}, threshold {c.min_brightness:.2f}"
                )
            elif c.max_brightness < 1 and v.dark > c.max_brightness:
                reasons[v.frame.frame_id] = _Reason(
                    "overexposed", f"overexposed: its darkest percent is {v.dark:.2f}, threshold {c.max_brightness:.2f}"
                )
        lit = [v for v in views if v.frame.frame_id not in reasons]
        for i, v in enumerate(lit):
            around = lit[max(0, i - c.neighbours) : i] + lit[i + 1 : i + 1 + c.neighbours]
            around = around or [v]
            usual_glare = float(np.median([a.glare for a in around]))
            usual_sharpness = float(np.median([a.sharpness for a in around]))
            if c.max_glare < 1 and v.glare - usual_glare > c.max_glare:
                reasons[v.frame.frame_id] = _Reason(
                    "glaring",
                    f"glare: covers {v.glare:.0%} of the view, {v.glare - usual_glare:.0%} more than in neighbouring "
                    f"frames, threshold {c.max_glare:.0%}",
                )
            elif v.sharpness < c.min_sharpness * usual_sharpness:
                reasons[v.frame.frame_id] = _Reason(
                    "blurred",
                    f"blurred: sharpness is {v.sharpness / usual_sharpness:.2f} of the neighbouring frames' median, "
                    f"threshold {c.min_sharpness:.2f}",
                )
        return reasons

    def _moving(
        self, views: list[FrameQuality], reasons: dict[int, "_Reason"]
    ) -> tuple[list[FrameQuality], np.ndarray]:
        """Drop still frames; returns those kept and the motion float [N] of each since the one before it."""
        kept, moved = [views[0]], [0.0]
        for v in views[1:]:
            step = motion(kept[-1], v)
            if step < self.config.min_motion:
                reasons[v.frame.frame_id] = _Reason(
                    "still",
                    f"still: moved {step:.3%} of the image diagonal since frame {kept[-1].frame.name}, "
                    f"threshold {self.config.min_motion:.3%}",
                )
                continue
            kept.append(v)
            moved.append(step)
        return kept, np.array(moved)

    def _thin(
        self, views: list[FrameQuality], moved: np.ndarray, reasons: dict[int, "_Reason"], ordered: bool
    ) -> list[FrameQuality]:
        """The sharpest frame of each of ``target`` stretches of equal motion (of equal length in unordered sets)."""
        target = self.config.target
        way = np.cumsum(moved)
        way = way / way[-1] if way[-1] > 0 else np.linspace(0, 1, len(views))
        stretch = np.minimum((way * target).astype(int), target - 1)
        # Fast motion leaves stretches empty: give those to the fullest ones, so that the target is reached.
        stretch = _fill(stretch, target)
        out = []
        for s in np.unique(stretch):
            group = [views[i] for i in np.flatnonzero(stretch == s)]
            best = max(group, key=lambda v: v.sharpness)
            out.append(best)
            for v in group:
                if v is not best:
                    reasons[v.frame.frame_id] = _Reason(
                        "thinned",
                        f"thinned: {best.frame.name} stands for this stretch of {'motion' if ordered else 'the set'}, "
                        f"target {target} frames",
                    )
        return out


@dataclass(frozen=True, slots=True)
class _Reason:
    kind: str
    words: str


def _fill(stretch: np.ndarray, target: int) -> np.ndarray:
    """Non-decreasing group numbers int [N] -> exactly min(target, N) groups, by halving the largest groups."""
    _, groups = np.unique(stretch, return_inverse=True)
    groups = groups.reshape(-1)
    while groups.max() + 1 < min(target, len(groups)):
        sizes = np.bincount(groups)
        big = int(sizes.argmax())
        middle = np.flatnonzero(groups == big)[sizes[big] // 2]
        groups[middle:] += 1
    return groups


def _need_enough(frames: FrameSet) -> FrameSet:
    frames.validate()
    if len(frames) < MIN_FRAMES:
        raise InputError(
            f"there {'is' if len(frames) == 1 else 'are'} only {len(frames)} frame{'s' * (len(frames) > 1)}; "
            f"at least {MIN_FRAMES} pictures from different places are needed",
            "give more pictures, or a longer clip",
        )
    return frames

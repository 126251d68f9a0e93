# SPDX-License-Identifier: Apache-2.0
"""The funnel: how many frames, keypoints and matches were left at each step, and what to do where it broke."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medrecon.sfm.cameras import implausible_focal
from medrecon.sfm.graph import components, usable_pairs
from medrecon.types import Features, FrameSet, FunnelStep, MatchGraph, SparseModel

# What the next step needs.  A pair that is to start a model needs 100 inliers by COLMAP's default, a pose 30.
MIN_FRAMES, MIN_KEYPOINTS, MIN_PUTATIVE, MIN_INLIERS = 3, 200, 60, 30
MIN_FRACTION, MIN_POINTS, MIN_TRACK, MAX_REPROJECTION_PX = 0.8, 100, 2.5, 2.0
# Below this a frame adds nothing at all.
_VERIFIED_AT_LEAST = 15


def _best_per_frame(frames: FrameSet, graph: MatchGraph, figure) -> np.ndarray:
    """Largest figure(pair) over the pairs of each frame, in frame order; 0 for a frame without pairs."""
    best = {f.frame_id: 0 for f in frames.frames}
    for p in graph.pairs:
        for i in (p.frame_id_a, p.frame_id_b):
            if i in best:
                best[i] = max(best[i], figure(p))
    return np.array(list(best.values()))


def matching_funnel(frames: FrameSet, features: Mapping[int, Features], graph: MatchGraph) -> list[FunnelStep]:
    """Steps from frames to the view graph: everything that can be said before mapping."""
    steps = []

    def step(name: str, value: float, unit: str, ok: bool, advice: str) -> None:
        steps.append(FunnelStep(name, round(float(value), 3), unit, bool(ok), "" if ok else advice))

    n = len(frames)
    step("frames", n, "frames", n >= MIN_FRAMES,
         "give more pictures from different places: three is the least, thirty to a hundred are usual")  # fmt: skip
    counts = np.array([len(features[f.frame_id]) if f.frame_id in features else 0 for f in frames.frames])
    poor = int((counts < MIN_KEYPOINTS).sum())
    typical = float(np.median(counts)) if n else 0.0
    step("keypoints per frame", typical, "keypoints, median", typical >= MIN_KEYPOINTS,
         f"{poor} of {n} frames have fewer than {MIN_KEYPOINTS} keypoints: the pictures show too little texture, or "
         "the mask hides it. Check exposure and masks, lower the extractor's contrast threshold, raise its maximum "
         "number of keypoints, use larger pictures, or another extractor")  # fmt: skip
    putative = _best_per_frame(frames, graph, lambda p: len(p.putative))
    median = float(np.median(putative)) if n else 0.0
    step("putative matches", median, "best pair of each frame, median", median >= MIN_PUTATIVE,
         "the same spots are not recognised in other frames: take pictures closer together, pair more neighbours "
         "(pairing exhaustive, or a larger window), loosen the matcher's ratio, or use another extractor")  # fmt: skip
    inliers = _best_per_frame(frames, graph, lambda p: p.n_inliers if p.kind != "none" else 0)
    median = float(np.median(inliers)) if n else 0.0
    step("verified matches", median, "best pair of each frame, median", median >= MIN_INLIERS,
         "matches do not agree with one rigid motion: the scene may deform or an instrument may fill it (mask it), "
         "the matches may be wrong (tighten the ratio), or the verification threshold too tight")  # fmt: skip
    verified = len(usable_pairs(graph, _VERIFIED_AT_LEAST))
    step("verified pairs", verified, f"of {len(graph.pairs)} pairs", verified >= max(1, n - 1),
         "too few pairs to tie the frames together: pair more frames (exhaustive, or with loop closing)")  # fmt: skip
    groups = components([f.frame_id for f in frames.frames], usable_pairs(graph, _VERIFIED_AT_LEAST))
    largest = len(groups[0]) if groups else 0
    sizes = ", ".join(str(len(g)) for g in groups[:5])
    step("frames that hang together", largest, "frames, largest component", n and largest >= MIN_FRACTION * n,
         f"the view graph falls into {len(groups)} parts ({sizes}{', ...' if len(groups) > 5 else ''} frames): there "
         "is a cut or a jump between them. Fill the gap with more frames, pair across it (exhaustive or loop closing), "
         "or reconstruct the parts one by one")  # fmt: skip
    return steps


def model_funnel(frames: FrameSet, model: SparseModel, matched: bool = True) -> list[FunnelStep]:
    """Steps from registered frames to the reprojection error; those on points only where there were matches."""
    steps = []

    def step(name: str, value: float, unit: str, ok: bool, advice: str) -> None:
        value = float(value) if np.isfinite(value) else 0.0
        steps.append(FunnelStep(name, round(value, 3), unit, bool(ok), "" if ok else advice))

    n, registered = len(frames), len(model.cam_from_world)
    others = f"; smaller models: {', '.join(map(str, model.other_models))} frames" if model.other_models else ""
    step("registered frames", registered, f"of {n} frames{others}", n and registered >= MIN_FRACTION * n,
         "see the reason beside each missing frame. Known intrinsics (sfm.focal_px), slower motion, more keypoints or "
         "more pairs help most; pure advance along the viewing direction is the hardest case")  # fmt: skip
    if matched:
        step("sparse points", len(model.points), "points", len(model.points) >= MIN_POINTS,
             "too few points to bound the scene: use more keypoints or more overlap")  # fmt: skip
        step("track length", model.mean_track_length, "frames per point, mean", model.mean_track_length >= MIN_TRACK,
             "points are seen in too few frames to be accurate: pair frames farther apart")  # fmt: skip
        error = model.mean_reprojection_px
        step("reprojection error", error, "px, mean", error <= MAX_REPROJECTION_PX,
             "poses and points disagree: the lens may need another camera model (OPENCV, OPENCV_FISHEYE), or the "
             "scene moves by itself")  # fmt: skip
    cameras = [model.cameras[i] for i in model.registered_ids]
    focal = float(np.median([sum(c.focal_px) / 2 for c in cameras])) if cameras else 0.0
    bad = next((w for c in cameras if (w := implausible_focal(c))), "")
    step("focal length", focal, "px, median", not bad,
         f"{bad}: the motion may leave it open. Calibrate the camera and give sfm.focal_px")  # fmt: skip
    return steps


def funnel_text(steps: Sequence[FunnelStep]) -> str:
    """The funnel as lines of plain text."""
    return "\n".join(f"  {'ok ' if s.ok else 'LOW'} {s.name}: {s.value:g} {s.unit}" for s in steps)


def first_broken(steps: Sequence[FunnelStep]) -> FunnelStep | None:
    """The first step that is below what the next one needs."""
    return next((s for s in steps if not s.ok), None)

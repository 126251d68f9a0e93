# SPDX-License-Identifier: Apache-2.0
"""The structure-from-motion stage: any mapper, with its result checked, the funnel and the metric scale added."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from medrecon.errors import InputError, PluginError, StageError
from medrecon.plugins.contracts import Mapper
from medrecon.progress import Progress
from medrecon.sfm.funnel import first_broken, funnel_text, matching_funnel, model_funnel
from medrecon.sfm.scale import ScaleConfig, find_scale
from medrecon.sfm.selection import keypoints_only
from medrecon.types import Features, FrameSet, MatchGraph, SparseModel


def reconstruct(
    frames: FrameSet,
    features: Mapping[int, Features],
    graph: MatchGraph,
    mapper: Mapper,
    scale: ScaleConfig,
    out_dir: Path,
    seed: int,
    progress: Progress,
) -> SparseModel:
    """Poses, points, funnel and scale; saved as model.json and model.npz in ``out_dir``.

    Raises:
        StageError: nothing registers; the message holds the funnel and the advice of the step that broke.
        PluginError: the mapper's result breaks its contract.
        InputError: the scale names frames or poses that are not there.
    """
    light = keypoints_only(frames, features)
    matched = getattr(mapper, "uses_matches", True)
    before = matching_funnel(frames, light, graph)
    before = before if matched else before[:1]
    work_dir = out_dir / ".work"
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True)
    try:
        model = mapper.map(frames, features, graph, work_dir, seed, progress)
    except StageError as e:
        broken = first_broken(before)
        advice = f"{broken.advice} (step: {broken.name})" if broken else e.remedy
        raise StageError(f"{e.cause}\nThe way there:\n{funnel_text(before)}", advice) from e
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)
    model = _checked(model, frames, light, type(mapper).__name__)
    model = replace(model, funnel=tuple(before + model_funnel(frames, model, matched)))
    for step in model.funnel:
        if not step.ok:
            progress.say(f"{step.name}: {step.value:g} {step.unit}. {step.advice}")
    model = replace(model, scale=find_scale(frames, model, scale)).validate()
    progress.say(f"scale: {model.scale.source} ({model.scale.stamp})")
    model.save(out_dir)
    return model


def _checked(model: SparseModel, frames: FrameSet, features: Mapping[int, Features], mapper: str) -> SparseModel:
    """The mapper's result, or PluginError naming the mapper.  Frames it forgot get a reason."""

    def broken(what: str) -> PluginError:
        return PluginError(f"mapper {mapper} returned {what}", "report it to the author of the mapper's package")

    if not isinstance(model, SparseModel):
        raise broken(f"{type(model).__name__} instead of a SparseModel")
    try:
        model.validate()
    except InputError as e:
        raise broken(f"a model that does not hold together: {e.cause}") from e
    except Exception as e:
        raise broken(f"a model that cannot be checked: {type(e).__name__}: {e}") from e
    ids = {f.frame_id for f in frames.frames}
    registered = set(model.cam_from_world)
    if not registered:
        raise broken("a model without a single registered frame, where it should have raised StageError")
    if not (registered | set(model.unregistered)) <= ids or not registered <= set(model.cameras):
        raise broken("frames that were not given to it, or poses without cameras")
    offsets, track = model.track_offsets, model.track_frame_ids
    if offsets[0] != 0 or offsets[-1] != len(track) or (np.diff(offsets) < 0).any():
        raise broken("track offsets that do not fit its tracks")
    if len(model.track_keypoint_idx) != len(track) or not set(np.unique(track).tolist()) <= registered:
        raise broken("tracks through frames that are not registered")
    for frame_id in np.unique(track).tolist():
        k = model.track_keypoint_idx[track == frame_id]
        if k.min() < 0 or k.max() >= len(features[frame_id]):
            raise broken(f"a track through a keypoint that frame {frame_id} does not have")
    missing = {i: "the mapper gave no reason" for i in sorted(ids - registered - set(model.unregistered))}
    return replace(model, unregistered={**model.unregistered, **missing}) if missing else model

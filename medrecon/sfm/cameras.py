# SPDX-License-Identifier: Apache-2.0
"""Which frames share a camera, what each camera is to begin with, and whether it may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medrecon.errors import InputError
from medrecon.sfm.focal import DEFAULT_RATIO, MAX_RATIO, MIN_RATIO, estimate_focal_ratio
from medrecon.sfm.options import MapperConfig, ideal_camera
from medrecon.types import Camera, Features, FrameSet, MatchGraph


@dataclass(frozen=True, slots=True)
class CameraGroup:
    """Frames that share one camera.

    Attributes:
        frame_ids: sorted.
        camera: initial or known intrinsics.
        known: True when they come from a calibration, False when they are a guess.
        fixed: True when the mapper must not change them.
        trusted: True when the focal length is better than the default guess: known, or measured on the matches.
    """

    frame_ids: tuple[int, ...]
    camera: Camera
    known: bool
    fixed: bool
    trusted: bool = False


def camera_groups(
    frames: FrameSet, features: Mapping[int, Features], graph: MatchGraph, config: MapperConfig
) -> tuple[list[CameraGroup], str]:
    """Groups in the order of their first frame, and one line on where the focal length comes from.

    A frame's own calibration (``Frame.camera``) goes before the options ``intrinsics`` and ``focal_px``; both go
    before an estimate.

    Raises:
        InputError: known intrinsics that are not a camera.
    """
    shared: dict[tuple, list[int]] = {}
    cameras: dict[tuple, tuple[Camera, bool]] = {}
    guess, estimated = None, None
    sources = set()
    for frame in frames.frames:
        size = (frame.width_px, frame.height_px)
        camera = frame.camera or config.known_camera(*size)
        known = camera is not None
        if known:
            sources.add("calibration of the frames" if frame.camera else "the configuration")
            camera.validate()
            if (camera.width_px, camera.height_px) != size:
                camera = camera.scaled(*size)
            if not min(camera.focal_px) > 0:
                raise InputError(
                    f"the known focal length {camera.focal_px} px is not positive", "check the calibration"
                )
        else:
            if guess is None:
                estimated = estimate_focal_ratio(graph, features) if config.focal_prior == "auto" else None
                guess = estimated or DEFAULT_RATIO
                sources.add(f"epipolar geometry of the matches, {guess:.2f} x longer side" if estimated
                            else f"default {guess:.2f} x longer side")  # fmt: skip
            camera = ideal_camera(config.camera_model, *size, guess * max(size))
        key = (camera, known) if config.share_intrinsics else (camera, known, frame.frame_id)
        shared.setdefault(key, []).append(frame.frame_id)
        cameras[key] = (camera, known)
    groups = []
    for key, ids in shared.items():
        camera, known = cameras[key]
        fixed = config.refine_intrinsics == "false" or (config.refine_intrinsics == "auto" and known)
        groups.append(CameraGroup(tuple(sorted(ids)), camera, known, fixed, known or estimated is not None))
    return groups, " and ".join(sorted(sources))


def implausible_focal(camera: Camera) -> str:
    """Why a focal length cannot be right ("" when it can): outside a field of view of 118 to 7 degrees."""
    ratio = sum(camera.focal_px) / 2 / max(camera.width_px, camera.height_px)
    if MIN_RATIO <= ratio <= MAX_RATIO:
        return ""
    return f"focal length {sum(camera.focal_px) / 2:.0f} px is {ratio:.2f} x the longer image side"

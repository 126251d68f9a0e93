# SPDX-License-Identifier: Apache-2.0
"""The videos along the camera path, packed into the report."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from medrecon.radiance.renders import Renders
from medrecon.report import words
from medrecon.types import Scale

MOST_BYTES = 8_000_000  # of a video; a larger one stays beside the report
PLAYED = (b"avc1", b"vp09")  # names of the codecs that browsers play, as they stand in the file


@dataclass(frozen=True, slots=True)
class Video:
    """An embedded video with its words."""

    uri: str
    caption: str


def path_videos(renders: Renders, scale: Scale) -> list[Video]:
    """Colour and depth along the path, as far as they are there, are small enough and can be played."""
    found = [(renders.path_video, "Along a camera path")]
    depth = renders.depth_video
    if depth is not None:
        factor, unit = (scale.metric_from_sfm.scale, "mm") if scale.is_metric else (1.0, "units")
        near, far = (words.number(factor * x, 3) for x in (depth.near_sfm, depth.far_sfm))
        found.append((depth.path, f"Median depth along it, {near} (bright) to {far} {unit}; grey: nothing hit"))
    embedded = ((_uri(path), caption) for path, caption in found if path is not None)
    return [Video(uri, caption) for uri, caption in embedded if uri]


def _uri(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError:
        return ""
    if len(data) > MOST_BYTES or not any(codec in data for codec in PLAYED):
        return ""
    return "data:video/mp4;base64," + base64.b64encode(data).decode()

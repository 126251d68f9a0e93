# SPDX-License-Identifier: Apache-2.0
"""The masks stage: which pixels may be used. Endoscope border, glare, black background and the user's own masks."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from medrecon.config import ComponentConfig
from medrecon.errors import InputError
from medrecon.images import cv2, read_mask, write_png
from medrecon.ingest.border import Circle, follow_circle
from medrecon.ingest.frame_quality import find_circles, glare
from medrecon.ingest.keyframes import MIN_FRAMES
from medrecon.progress import Progress
from medrecon.types import DroppedFrame, Frame, FrameSet

_Fraction = Annotated[float, Field(ge=-1, le=2)]
N_THREADS = 2


class MaskConfig(ComponentConfig):
    border: Literal["auto", "none"] | tuple[_Fraction, _Fraction, Annotated[float, Field(gt=0, le=2)]] = Field(
        "auto", description="circular endoscope view: auto finds it, none never masks it, [cx, cy, r] sets it: "
        "cx of the width, cy of the height, r of the shorter side"
    )  # fmt: skip
    border_margin: float = Field(0.02, ge=0, lt=1, description="taken off the rim of the view, fraction of its radius")
    specular: bool = Field(
        False,
        description="mask mirror reflections: bright and colourless; not for pictures that are grey or pale anyway",
    )
    specular_level: float = Field(0.92, gt=0, le=1, description="least brightness of a reflection")
    specular_saturation: float = Field(0.2, ge=0, le=1, description="greatest saturation of a reflection")
    specular_margin: float = Field(
        0.004, ge=0, le=0.1, description="grown around a reflection, fraction of the diagonal"
    )
    background: Literal["keep", "black"] = Field("keep", description="black: mask pixels that are exactly black")
    folder: Path | None = Field(
        None, description="folder of the user's own masks named like the frames (000012.png); they replace masks that "
        "came with the source"
    )  # fmt: skip
    white_means: Literal["use", "ignore"] = Field("use", description="what white is in the masks of that folder")
    min_used: float = Field(0.02, ge=0, le=1, description="frames of which less than this is left are dropped")


def write_masks(frames: FrameSet, config: MaskConfig, out_dir: Path, progress: Progress) -> FrameSet:
    """Combine all masks (a pixel is used only if all of them use it) and write ``out_dir/masks/{frame_id:06d}.png``.

    Frames that may be used whole get no mask file. Frames of which nearly nothing is left are dropped with the reason.

    Raises:
        InputError: a mask cannot be read or has the wrong size, or fewer than three frames are left.
    """
    frames.validate()
    own = _user_masks(frames, config)
    circles = _circles(frames, config)
    for (w, h), circle in sorted(circles.items()):
        if circle is not None and config.border == "auto":
            progress.say(
                f"circular endoscope view found at {w}x{h}: centre ({circle.cx * w:.0f}, {circle.cy * h:.0f}) px, "
                f"radius {circle.r * min(w, h):.0f} px"
            )
    progress.begin(len(frames), "masks")
    kept: list[Frame] = []
    dropped: list[DroppedFrame] = []
    with ThreadPoolExecutor(N_THREADS) as pool:
        for frame, mask in zip(
            frames.frames, pool.map(lambda f: _mask(f, own.get(f.frame_id), circles, config), frames.frames)
        ):
            used = 1.0 if mask is None else float(mask.mean())
            path = None
            if used < config.min_used or used == 0:
                reason = f"masked: {used:.1%} of the picture is left, threshold {config.min_used:.1%}"
                dropped.append(DroppedFrame(frame.frame_id, frame.name, reason))
            else:
                if used < 1:
                    path = out_dir / "masks" / f"{frame.frame_id:06d}.png"
                    write_png(path, mask)
                kept.append(replace(frame, mask_path=path))
            progress.advance(1)
    if len(kept) < MIN_FRAMES:
        raise InputError(
            f"the masks hide {len(dropped)} of {len(frames)} frames; at least {MIN_FRAMES} must be left",
            "check the polarity of your masks (white_means), or set border: none and specular: false",
        )
    return replace(frames, frames=tuple(kept), dropped=frames.dropped + tuple(dropped))


def _mask(
    frame: Frame, own_path: Path | None, circles: dict[tuple[int, int], Circle | None], config: MaskConfig
) -> np.ndarray | None:
    """bool [H, W], or None where the whole frame may be used."""
    w, h = frame.width_px, frame.height_px
    circle = circles[w, h]
    image = None
    if config.specular or config.background == "black" or (circle is not None and config.border == "auto"):
        image = frame.load_image()
    use = np.ones((h, w), bool)
    if circle is not None:
        if config.border == "auto":
            circle = follow_circle(image, circle)
        use &= circle.mask(w, h, config.border_margin)
    if config.specular:
        use &= ~_specular(image, config)
    if config.background == "black":
        use &= image.max(2) > 0
    if own_path is not None:
        mask = read_mask(own_path)
        if mask.shape != (h, w):
            raise InputError(
                f"the mask of frame {frame.name} is {mask.shape[1]}x{mask.shape[0]} but the picture {w}x{h}",
                "give masks of the picture's size",
            )
        inverted = config.folder is not None and config.white_means == "ignore" and own_path != frame.mask_path
        use &= ~mask if inverted else mask
    return None if use.all() else use


def _specular(image: np.ndarray, config: MaskConfig) -> np.ndarray:
    """bool [H, W]: reflections and what they spill on."""
    spots = glare(image, config.specular_level, config.specular_saturation).astype(np.uint8)
    radius = round(config.specular_margin * float(np.hypot(*image.shape[:2])))
    if radius:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        spots = cv2.dilate(spots, kernel)
    return spots.astype(bool)


def _circles(frames: FrameSet, config: MaskConfig) -> dict[tuple[int, int], Circle | None]:
    """The endoscope's view per picture size (width, height)."""
    if config.border == "auto":
        return find_circles(frames.frames)
    circle = None if config.border == "none" else Circle(*config.border)
    return {(f.width_px, f.height_px): circle for f in frames.frames}


def _user_masks(frames: FrameSet, config: MaskConfig) -> dict[int, Path]:
    """Path of each frame's own mask: from the user's folder where it has one, else what the source gave."""
    out = {f.frame_id: f.mask_path for f in frames.frames if f.mask_path is not None}
    if config.folder is None:
        return out
    try:
        files = [
            p for p in sorted(config.folder.iterdir()) if p.suffix.lower() in (".png", ".bmp", ".tif", ".tiff", ".jpg")
        ]
    except OSError as e:
        raise InputError(f"mask folder {config.folder} cannot be read: {e.strerror}", "check masks.folder") from e
    by_name = {p.stem: p for p in files}
    by_number = {int(p.stem): p for p in files if re.fullmatch(r"\d+", p.stem)}
    found = 0
    for f in frames.frames:
        path = by_name.get(f.name) or by_number.get(f.frame_id)
        if path is not None:
            out[f.frame_id] = path
            found += 1
    if not found:
        raise InputError(
            f"mask folder {config.folder} holds no mask for any of the {len(frames)} frames",
            f"name the files like the frames, e.g. {frames.frames[0].name}.png",
        )
    return out

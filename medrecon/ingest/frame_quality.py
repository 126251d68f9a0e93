# SPDX-License-Identifier: Apache-2.0
"""What one frame is worth: sharpness, exposure, glare; and how far the picture moved between two frames."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from medrecon.images import cv2, to_grey
from medrecon.ingest.border import MAX_FRAMES, Circle, find_circle
from medrecon.progress import Progress
from medrecon.types import Frame

# Longest sides at which quality is measured, and motion (those pictures stay in memory: 60 kB a frame).
WORKING_PX = 480
MOTION_PX = 320
# Motion is not measured beyond this fraction of the diagonal: what cannot be followed counts as this.
MAX_MOTION = 0.25
N_READERS = 2


@dataclass(frozen=True, slots=True)
class FrameQuality:
    """Figures of one frame, inside its view.

    Attributes:
        frame: whose they are.
        grey: uint8 [h, w] for ``motion``.
        view: bool [h, w], inside the endoscope's disc and the frame's own mask; None: all of it.
        sharpness: variance of the Laplacian; only comparable between frames of one set.
        bright: 99th percentile of the grey value, 0 black to 1 white.
        dark: first percentile.
        glare: share of the view that is bright and colourless.
    """

    frame: Frame
    grey: np.ndarray
    view: np.ndarray | None
    sharpness: float
    bright: float
    dark: float
    glare: float


def measure(frames: tuple[Frame, ...], progress: Progress) -> list[FrameQuality]:
    """Figures of every frame, in order.  Raises InputError when a picture cannot be read."""
    circles = find_circles(frames)
    out = []
    with ThreadPoolExecutor(N_READERS) as readers:
        for quality in readers.map(lambda f: _figures(f, circles[f.width_px, f.height_px]), frames):
            out.append(quality)
            progress.advance(1)
    return out


def find_circles(frames: tuple[Frame, ...]) -> dict[tuple[int, int], Circle | None]:
    """The endoscope's disc per picture size (width, height), from an even sample of the frames."""
    out = {}
    for size in sorted({(f.width_px, f.height_px) for f in frames}):
        same = [f for f in frames if (f.width_px, f.height_px) == size]
        step = -(-len(same) // MAX_FRAMES)
        out[size] = find_circle(f.load_image() for f in same[::step])
    return out


def motion(a: FrameQuality, b: FrameQuality) -> float:
    """Median shift of corners from ``a`` to ``b`` as a fraction of the image diagonal.

    Sparse Lucas-Kanade tracking, forward and backward (Bouguet's pyramidal version in OpenCV); tracks that do not come
    home do not count. The median lets an instrument or an overlay move, or stay, on its own. Where hardly anything
    can be followed the pictures count as far apart, unless they are nearly equal pixel by pixel.
    """
    ga, gb = a.grey, b.grey
    if ga.shape != gb.shape:
        return MAX_MOTION
    difference = cv2.absdiff(ga, gb)
    difference = float((difference if a.view is None else difference[a.view]).mean())
    if difference < 0.5:
        return 0.0
    plain = 0.0 if difference < 2 else MAX_MOTION
    corners = cv2.goodFeaturesToTrack(ga, 200, 0.01, 5, mask=None if a.view is None else a.view.astype(np.uint8))
    if corners is None or len(corners) < 8:
        return plain
    there, ok_there, _ = cv2.calcOpticalFlowPyrLK(ga, gb, corners, None, winSize=(15, 15), maxLevel=4)
    home, ok_home, _ = cv2.calcOpticalFlowPyrLK(gb, ga, there, None, winSize=(15, 15), maxLevel=4)
    good = (ok_there.ravel() > 0) & (ok_home.ravel() > 0)
    good &= np.linalg.norm((home - corners).reshape(-1, 2), axis=1) < 1
    if good.sum() < max(8, 0.2 * len(corners)):
        return plain
    shift = np.linalg.norm((there - corners).reshape(-1, 2)[good], axis=1)
    return min(MAX_MOTION, float(np.median(shift)) / float(np.hypot(*ga.shape)))


def _shrunk(image: np.ndarray, longest_px: int) -> np.ndarray:
    f = min(1.0, longest_px / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * f)), max(1, round(image.shape[0] * f))
    interpolation = cv2.INTER_NEAREST if image.dtype == bool else cv2.INTER_AREA
    small = cv2.resize(image.astype(np.uint8), size, interpolation=interpolation)
    return small.astype(image.dtype)


def _figures(frame: Frame, circle: Circle | None) -> FrameQuality:
    image = _shrunk(frame.load_image(), WORKING_PX)
    h, w = image.shape[:2]
    grey = to_grey(image)
    # The rim itself would count as the sharpest edge of all.
    view = np.ones((h, w), bool) if circle is None else circle.mask(w, h, 0.04)
    mask = frame.load_mask()
    if mask is not None:
        own = cv2.resize(mask.astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST)
        view &= cv2.erode(own, np.ones((3, 3), np.uint8)).astype(bool)
    for_motion = _shrunk(grey, MOTION_PX)
    if not view.any():
        return FrameQuality(frame, for_motion, np.zeros(for_motion.shape, bool), 0.0, 0.0, 0.0, 0.0)
    # A slight blur first: sensor noise is no sharpness.
    laplacian = cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), 0.8), cv2.CV_32F)
    low, high = np.percentile(grey[view], [1, 99]) / 255
    return FrameQuality(
        frame,
        for_motion,
        None if view.all() else _shrunk(view, MOTION_PX),
        sharpness=float(laplacian[view].var()),
        bright=float(high),
        dark=float(low),
        glare=float(glare(image)[view].mean()),
    )


def glare(image: np.ndarray, level: float = 0.92, max_saturation: float = 0.2) -> np.ndarray:
    """bool [H, W]: bright and nearly colourless, as mirror reflections of the lamp are.

    Args:
        image: uint8 [H, W, 3] RGB.
        level: least value of the brightest channel, 0..1.
        max_saturation: greatest (max - min) / max of the channels.
    """
    top = image.max(2)
    spread = (top - image.min(2)).astype(np.float32)
    return (top >= level * 255) & (spread <= max_saturation * np.maximum(top, 1))

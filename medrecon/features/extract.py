# SPDX-License-Identifier: Apache-2.0
"""The features stage: one npz per frame, written once, checked before it is believed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from medrecon.errors import InputError, MedreconError, PluginError
from medrecon.features.prepare import outside_mask
from medrecon.progress import Progress
from medrecon.types import Features, Frame, FrameSet


def extract_all(
    frames: FrameSet,
    extractor,
    out_dir: Path,
    progress: Progress,
    prepare: Callable[[np.ndarray, np.ndarray | None], np.ndarray] | None = None,
) -> None:
    """Extract every frame's features into ``out_dir/{frame_id:06d}.npz``.

    Files already there that load and fit their frame are kept: a killed run goes on where it stopped. The pictures
    are decoded one ahead in a second thread; the extractor itself is only ever called from one thread.

    Args:
        extractor: see ``medrecon.plugins.contracts.Extractor``.
        prepare: (image, mask) -> the image that the extractor sees, of the same shape; None: as it is.

    Raises:
        InputError: a frame's picture or mask cannot be read.
        PluginError: the extractor raised or broke its contract; names extractor and frame.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    todo = [f for f in frames.frames if not _usable(out_dir / f"{f.frame_id:06d}.npz", f)]
    progress.begin(len(frames), "frames")
    if len(todo) < len(frames):
        progress.advance(len(frames) - len(todo))
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(_load, todo[0], prepare) if todo else None
        for i, frame in enumerate(todo):
            image, mask = ahead.result()
            ahead = reader.submit(_load, todo[i + 1], prepare) if i + 1 < len(todo) else None
            features = checked_extract(extractor, image, mask, frame.name)
            features.save(out_dir / f"{frame.frame_id:06d}.npz")
            progress.advance(1, keypoints=len(features))


def checked_extract(extractor, image: np.ndarray, mask: np.ndarray | None, frame_name: str) -> Features:
    """One call of an extractor, held to its contract.  Raises PluginError naming the extractor and the frame."""
    who = f"extractor {type(extractor).__name__} on frame {frame_name}"
    try:
        features = extractor.extract(image, mask)
    except MedreconError:
        raise
    except Exception as e:
        raise PluginError(f"{who} failed: {type(e).__name__}: {e}", "choose another extractor or report it") from e
    if not isinstance(features, Features):
        raise PluginError(f"{who} returned {type(features).__name__}, not Features", "see docs on writing an extractor")
    try:
        features.validate()
    except (InputError, AttributeError, TypeError, ValueError) as e:
        cause = e.cause if isinstance(e, InputError) else f"{type(e).__name__}: {e}"
        raise PluginError(f"{who} returned unusable features: {cause}", "see docs on writing an extractor") from e
    size = image.shape[1], image.shape[0]
    if tuple(features.image_size) != size:
        raise PluginError(f"{who} says the image is {features.image_size}, but it is {size}")
    if mask is not None and len(features) and outside_mask(features.xy, mask).any():
        raise PluginError(f"{who} put keypoints where the mask is 0", "drop keypoints whose pixel is masked")
    return features


def _load(frame: Frame, prepare) -> tuple[np.ndarray, np.ndarray | None]:
    image, mask = frame.load_image(), frame.load_mask()
    return (image if prepare is None else prepare(image, mask)), mask


def _usable(path: Path, frame: Frame) -> bool:
    """A file left by a killed run that loads and belongs to this frame's size."""
    if not path.is_file():
        return False
    try:
        return Features.load(path).image_size == (frame.width_px, frame.height_px)
    except (InputError, KeyError, IndexError, TypeError, ValueError):
        return False

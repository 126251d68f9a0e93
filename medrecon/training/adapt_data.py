# SPDX-License-Identifier: Apache-2.0
"""A user's pictures for ``medrecon train adapt``: read as a run reads them, masked, and split in time.

Neighbouring frames of a clip show nearly the same. So what is held out is one stretch of time, with a stretch between
it and the frames that are learnt from which neither side sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.errors import InputError
from medrecon.images import to_grey
from medrecon.ingest.guess import guess_source
from medrecon.ingest.masks import MaskConfig, write_masks
from medrecon.progress import Progress
from medrecon.types import FrameSet

LEAST_TRAIN, LEAST_HELD_OUT = 4, 6
# Longer input is thinned evenly to this many frames before it is split.
MOST_FRAMES = 600


@dataclass(frozen=True, slots=True)
class Frames:
    """The two sides of the split, masks included.

    Attributes:
        learn: the frames that are learnt from.
        held_out: the frames that are only looked at, neighbours in time where the input is a clip.
        n_read: frames of the input before the split.
        source: what they came from, in words without identifiers.
        notes: what the source and the masks said.
    """

    learn: FrameSet
    held_out: FrameSet
    n_read: int
    source: str
    notes: tuple[str, ...]


def split_in_time(n: int, frames: int, held_out: float, apart: float) -> tuple[list[int], list[int]]:
    """Positions to learn from and positions held out, of ``n`` frames in order.

    The held-out ones are the last share of all; ``apart`` (a share too, but one frame at least) before them is left
    out; of the rest ``frames`` are taken, evenly spread.

    Raises:
        InputError: too few frames for both sides.
    """
    n_held = round(n * held_out)
    first_held = n - n_held
    usable = first_held - max(1, round(n * apart))
    if usable < LEAST_TRAIN or n_held < LEAST_HELD_OUT:
        need = int(np.ceil(max(LEAST_HELD_OUT / held_out, (LEAST_TRAIN + 1) / (1 - held_out - apart))))
        raise InputError(
            f"{n} frames are too few to learn from one part and to judge by another", f"give at least {need} frames"
        )
    learn = np.unique(np.linspace(0, usable - 1, min(frames, usable)).round().astype(int)).tolist()
    return learn, list(range(first_held, n))


def read_frames(
    path: Path,
    work: Path,
    size_px: int,
    frames: int,
    held_out: float,
    apart: float,
    options: dict[str, Any],
    progress: Progress,
) -> Frames:
    """Read a video, DICOM, or a folder of pictures with the project's sources, mask it and split it.

    Args:
        work: folder for the pictures as PNG; what a killed command wrote there is used again.
        size_px: longest side of the pictures.
        frames, held_out, apart: see ``split_in_time``.
        options: of the source, such as {"start_s": 10}.

    Raises:
        InputError: nothing that can be read, too few frames, or the masks hide them.
        ConfigError: options that the source does not have.
    """
    import medrecon

    name = guess_source(path)
    if name == "views":
        raise InputError(
            f"{path.name} is a volume, not pictures",
            f"medrecon views {path.name} --out PICTURES, then give PICTURES/images",
        )
    options = {"max_size_px": size_px, "max_frames": MOST_FRAMES, **options}
    read = medrecon.create("source", name, path=path, **options).read(work, progress)
    learn, held = split_in_time(len(read), frames, held_out, apart)
    ids = [f.frame_id for f in read.frames]
    kept = read.subset([ids[i] for i in (*learn, *held)])
    kept = write_masks(kept, MaskConfig(specular=True), work, progress)
    if kept.dropped:
        progress.say(f"{len(kept.dropped)} frames are left out: their masks hide nearly all of them")
    sides = (kept.subset([ids[i] for i in side]) for side in (learn, held))
    learn_set, held_set = sides
    if len(learn_set) < LEAST_TRAIN or len(held_set) < LEAST_HELD_OUT:
        raise InputError("the masks leave too few frames", "give more frames, or frames that show more")
    return Frames(learn_set, held_set, len(read), read.source, read.notes)


def load_grey(frames: FrameSet) -> list[tuple[np.ndarray, np.ndarray]]:
    """(grey uint8 [H, W], mask bool [H, W] with True = use) of every frame.  Raises InputError: unreadable."""
    out = []
    for frame in frames.frames:
        grey, mask = to_grey(frame.load_image()), frame.load_mask()
        out.append((grey, np.ones(grey.shape, bool) if mask is None else mask))
    return out

# SPDX-License-Identifier: Apache-2.0
"""Source `video`: frames of a video file, evenly spaced, upright, with their time in the clip."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import medrecon.images  # noqa: F401  (cv2 first, see there)

import cv2  # isort: skip
import numpy as np
from pydantic import Field, model_validator

from medrecon.errors import InputError
from medrecon.ingest.pictures import PictureSourceConfig, PictureWriter, pick, quiet_opencv
from medrecon.progress import Progress
from medrecon.types import FrameSet

# OpenCV and FFmpeg print names of files to stderr, and names may identify a patient. FFmpeg's level is read once,
# when the first video is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_REENCODE = "re-encode it, for example `ffmpeg -i IN -c:v libx264 OUT.mp4`, or give another file"


class VideoSourceConfig(PictureSourceConfig):
    path: Path = Field(description="video file (whatever OpenCV's FFmpeg decodes: mp4, avi, mkv, mov, ...)")
    fps: float | None = Field(None, gt=0, description="take about this many frames a second instead of every stride-th")
    start_s: float = Field(0.0, ge=0, description="first second to use")
    end_s: float | None = Field(None, gt=0, description="last second to use; empty: to the end")

    @model_validator(mode="after")
    def _consistent(self) -> "VideoSourceConfig":
        if self.fps is not None and self.stride != 1:
            raise ValueError("give fps or stride, not both")
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError("end_s must be later than start_s")
        return self


class VideoSource:
    """Frames of a clip. ``frame_id`` is the frame's number in the clip."""

    def __init__(self, config: VideoSourceConfig):
        self.config = config

    def read(self, out_dir: Path, progress: Progress) -> FrameSet:
        """Write the chosen frames below ``out_dir``.

        A clip that breaks off keeps what decodes and says so in the notes.

        Raises:
            InputError: no video, no frames, or none in the seconds asked for.
            StageError: the run folder cannot be written to.
        """
        config = self.config
        with open_video(config.path) as capture:
            rate = capture.get(cv2.CAP_PROP_FPS)
            rate = rate if math.isfinite(rate) and 0.1 < rate < 10000 else 0.0
            total = int(max(0, capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        if not 0 < total < 10**8:
            total = count_frames(config.path)
        if not total:
            raise InputError("the video holds no frames that can be decoded", _REENCODE)
        wanted = self._wanted(total, rate)
        if not wanted:
            raise InputError(
                f"no frame lies between start_s and end_s: the clip lasts {total / rate if rate else 0:.2f} s",
                "choose other seconds",
            )
        progress.begin(len(wanted), "frames")
        writer = PictureWriter(out_dir, config)
        frames = []
        for index, time_s, image in decode(config.path, wanted):
            frames.append(writer.write(index, image, time_s=time_s if rate else None))
            progress.advance()
        notes = [f"{len(frames)} of {total} frames taken", f"{rate:.4g} frames a second" if rate else "no frame rate"]
        notes += writer.notes()
        if len(frames) < len(wanted):
            text = f"the video breaks off: {len(frames)} of the {len(wanted)} frames asked for could be decoded"
            if not frames:
                raise InputError("the video holds no frames that can be decoded", _REENCODE)
            progress.say(text)
            notes.append(text)
        return FrameSet(tuple(frames), f"video of {total} frames", True, (), None, tuple(notes)).validate()

    def _wanted(self, total: int, rate: float) -> list[int]:
        config = self.config
        if not rate and (config.fps or config.start_s or config.end_s):
            raise InputError("the video states no frame rate", "use stride and max_frames instead of fps and seconds")
        first = math.ceil(config.start_s * rate - 1e-6)
        last = total - 1 if config.end_s is None else min(total - 1, math.floor(config.end_s * rate + 1e-6))
        candidates = list(range(first, last + 1))
        if config.fps is not None and candidates:
            step = max(1.0, rate / config.fps)
            n = int((len(candidates) - 1) / step + 1e-9) + 1
            candidates = [candidates[min(round(k * step), len(candidates) - 1)] for k in range(n)]
        return pick(candidates, config.stride, config.max_frames)


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[cv2.VideoCapture]:
    """An opened capture.  Raises InputError; the file is not named."""
    path = Path(path)
    try:
        with open(path, "rb") as f:
            head = f.read(4096)
    except FileNotFoundError:
        raise InputError("the video file does not exist", "check its path") from None
    except IsADirectoryError:
        raise InputError("the path of the video is a folder", "give the video file, or use image-folder") from None
    except OSError as e:
        raise InputError(f"the video cannot be read: {e.strerror}", "check permissions and the drive") from None
    if not head:
        raise InputError("the video file is empty", "copy it again")
    if not any(b < 9 or b > 126 for b in head):  # FFmpeg would render a text file as moving text
        raise InputError("the video file holds plain text, not a video", "give a video file such as .mp4")
    backends = cv2.videoio_registry.getBackends()
    with quiet_opencv():
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in backends else cv2.CAP_ANY)
        try:
            if not capture.isOpened():
                raise InputError("the file is not a video that can be decoded", _REENCODE)
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
            yield capture
        finally:
            capture.release()


def count_frames(path: Path) -> int:
    """Frames that really decode; for files whose header does not say."""
    with open_video(path) as capture:
        n = 0
        while capture.grab():
            n += 1
        return n


def decode(path: Path, wanted: list[int]) -> Iterator[tuple[int, float, np.ndarray]]:
    """(frame number, seconds since the first frame, uint8 [H, W, 3] RGB) of the frames asked for, in order.

    Every frame is decoded from the start on: seeking in compressed video lands on the wrong frame too often.
    Ends early when the file does.
    """
    with open_video(path) as capture:
        rate = capture.get(cv2.CAP_PROP_FPS) or 1.0
        index, start_ms, last_ms = -1, 0.0, -1.0
        for target in wanted:
            while index < target:
                if not capture.grab():
                    return
                index += 1
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC)
                if index == 0:
                    start_ms = stamp
                # Broken or missing stamps: fall back to the nominal rate.
                elapsed = stamp - start_ms if stamp - start_ms > last_ms else index * 1000.0 / rate
                last_ms = elapsed
            ok, image = capture.retrieve()
            if not ok or image is None:
                return
            yield index, elapsed / 1000.0, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

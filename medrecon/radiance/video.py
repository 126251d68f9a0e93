# SPDX-License-Identifier: Apache-2.0
"""Writing a video that browsers play."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

CODECS = ("avc1", "vp09", "mp4v")  # browsers play the first two


def write_mp4(path: Path, frames: Iterable[np.ndarray], size: tuple[int, int], fps: float) -> str | None:
    """Writes uint8 [H, W, 3] RGB frames of ``size`` (width, height), atomically.

    Returns:
        the codec that was used; None when this OpenCV can write none of ``CODECS`` (no file is left then).
    """
    temporary = path.with_name(f".{path.stem}.partial.mp4")
    writer, codec = _open(temporary, size, fps)
    if writer is None:
        return None
    try:
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        if not temporary.is_file() or not temporary.stat().st_size:
            return None
        os.replace(temporary, path)
        return codec
    finally:
        writer.release()
        temporary.unlink(missing_ok=True)


def _open(path: Path, size: tuple[int, int], fps: float) -> tuple["cv2.VideoWriter | None", str]:
    level = cv2.utils.logging.getLogLevel() if hasattr(cv2.utils, "logging") else None
    with _quiet_stderr():
        if level is not None:
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            for codec in CODECS:
                writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, size)
                if writer.isOpened():
                    return writer, codec
                writer.release()
        finally:
            if level is not None:
                cv2.utils.logging.setLogLevel(level)
    path.unlink(missing_ok=True)
    return None, ""


class _quiet_stderr:
    """FFmpeg writes to file descriptor 2 when a codec is missing, which is nothing the user can act on."""

    def __enter__(self) -> None:
        self._saved = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)

    def __exit__(self, *_: object) -> None:
        os.dup2(self._saved, 2)
        os.close(self._saved)

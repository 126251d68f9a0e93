# SPDX-License-Identifier: Apache-2.0
"""Reading and writing pictures: the one place that imports cv2 (it must be imported before pycolmap)."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from medrecon.errors import InputError


def _decode(path: Path, flags: int) -> np.ndarray:
    """cv2.imread that copes with non-ASCII paths and tells a missing file from a broken one."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as e:
        raise InputError(
            f"{path} cannot be read: {e.strerror or e}", "check that the file exists and is readable"
        ) from e
    try:
        image = cv2.imdecode(data, flags) if data.size else None
    except cv2.error:  # absurd sizes in the header
        image = None
    if image is None:
        raise InputError(f"{path} is not a picture that can be decoded", "it may be truncated; re-export or remove it")
    return image


def read_any(path: Path) -> np.ndarray:
    """uint8 or uint16 [H, W] or [H, W, 3] RGB, as stored."""
    image = _decode(Path(path), cv2.IMREAD_UNCHANGED)
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return image


def read_rgb(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] RGB."""
    return cv2.cvtColor(_decode(Path(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_mask(path: Path) -> np.ndarray:
    """bool [H, W], True = use."""
    return _decode(Path(path), cv2.IMREAD_GRAYSCALE) >= 128


def write_png(path: Path, image: np.ndarray) -> None:
    """uint8 [H, W], [H, W, 3] RGB, uint16 [H, W] or bool (written as 0/255) to PNG, atomically."""
    path = Path(path)
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not ok:
        raise InputError(f"{path}: an image of shape {image.shape} {image.dtype} cannot be written as PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        data.tofile(temporary)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def to_grey(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] RGB or [H, W] -> uint8 [H, W]."""
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)

# SPDX-License-Identifier: Apache-2.0
"""Pictures seen again under a known homography, and the real pictures that come with scikit-image."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from medrecon.bench.geometry import HomographyPair
from medrecon.errors import InputError
from medrecon.images import cv2, read_rgb

# Medical pictures in scikit-image's wheel (its other pictures would have to be downloaded).
IN_SCIKIT_IMAGE = {"retina": "retina.jpg", "immunohistochemistry": "ihc.png", "cell": "cell.png"}
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# Keypoints this near to the end of what the warped picture shows are of the end, not of the picture.
RIM_PX = 8


def scikit_pictures() -> dict[str, Path]:
    """Those that are there, by name (a distribution may package them apart)."""
    spec = find_spec("skimage")
    if spec is None or not spec.origin:
        return {}
    folder = Path(spec.origin).parent / "data"
    return {name: folder / file for name, file in IN_SCIKIT_IMAGE.items() if (folder / file).is_file()}


def folder_pictures(folder: Path, limit: int) -> dict[str, Path]:
    """Up to ``limit`` pictures of a folder, evenly spread, by a neutral name (file names may hold patient names).

    Raises:
        InputError: the folder holds no picture.
    """
    try:
        files = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in PICTURES)
    except OSError as e:
        raise InputError(f"{folder} cannot be read: {e.strerror or e}", "give a folder of pictures") from e
    if not files:
        raise InputError(f"{folder} holds no pictures", f"there should be files ending in {', '.join(PICTURES)}")
    picked = sorted(set(np.linspace(0, len(files) - 1, min(limit, len(files))).round().astype(int).tolist()))
    return {f"picture {i + 1}": files[i] for i in picked}


def read(path: Path, size_px: int) -> np.ndarray:
    """uint8 [H, W, 3], the longer side ``size_px``."""
    from medrecon.bench.volumes import fitted

    return fitted(read_rgb(path), size_px)


def random_homography(size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """float64 [3, 3], pixels to pixels of a picture (width, height): turn, zoom, shift and perspective.

    Up to 30 degrees, 0.75 to 1.35, a tenth of the size, and corners moved by up to an eighth of it.
    """
    w, h = size
    corners = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float64)
    middle = np.array([w / 2, h / 2])
    angle = np.radians(random.uniform(-30, 30))
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    zoom = np.exp(random.uniform(np.log(0.75), np.log(1.35)))
    moved = (corners - middle) @ turn.T * zoom + middle + random.uniform(-0.1, 0.1, 2) * (w, h)
    moved += random.uniform(-0.125, 0.125, (4, 2)) * (w, h)
    return cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32)).astype(np.float64)


def warp(image: np.ndarray, b_from_a: np.ndarray) -> tuple[np.ndarray, HomographyPair]:
    """The picture uint8 [H, W, 3] under a homography, at the same size, and the truth.

    Where the result shows nothing of the original, the picture is mirrored: no artificial edges; and not valid.
    """
    h, w = image.shape[:2]
    shift = np.array([(1, 0, 0.5), (0, 1, 0.5), (0, 0, 1.0)])  # OpenCV's first pixel has its centre at (0, 0)
    index = np.linalg.inv(shift) @ b_from_a @ shift
    out = cv2.warpPerspective(image, index, (w, h), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    valid = cv2.warpPerspective(np.full((h, w), 255, np.uint8), index, (w, h), flags=cv2.INTER_NEAREST) > 0
    framed = np.pad(valid, 1).astype(np.uint8)
    rim = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RIM_PX + 1, 2 * RIM_PX + 1))
    valid = cv2.erode(framed, rim, borderValue=1)[1:-1, 1:-1].astype(bool) if not valid.all() else valid
    return out, HomographyPair(b_from_a, (w, h), (w, h), valid)

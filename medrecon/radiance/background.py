# SPDX-License-Identifier: Apache-2.0
"""What a black background tells: which space is empty (visual hull), or that there is no such background."""

from __future__ import annotations

import cv2
import numpy as np

from medrecon.types import Camera, Rigid3

BLACK = 3  # largest 8-bit value in any channel that still counts as black
MIN_HOLE = 4e-4  # smallest black patch, as a share of the picture, that is background and not a shadow


def background_mask(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Background pixels of one picture.

    Args:
        image: uint8 [H, W, 3].
        mask: bool [H, W], True = use, or None. Masked pixels are never background: nothing is known about them.
    Returns:
        bool [H, W], True where the picture shows only blackness; small dark patches are taken for shadows.
    """
    black = image.max(-1) <= BLACK
    if mask is not None:
        black &= mask
    n, labels, stats, _ = cv2.connectedComponentsWithStats(black.astype(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= max(4, MIN_HOLE * black.size)
    large[0] = False
    return large[labels]


def is_black_scene(
    backgrounds: list[np.ndarray],
    masks: list[np.ndarray | None],
    cameras: list[Camera],
    poses: list[Rigid3],
    points: np.ndarray,
) -> bool:
    """Whether the pictures show an object before blackness.

    Two things must hold: most of the rim of most pictures is black, and no camera sees blackness where a
    reconstructed point projects. The second tells a background from the dark border of an endoscope, which moves with
    the camera and covers points that other pictures see. Without any points the first must do.

    Args:
        backgrounds: bool [H, W] per picture, from ``background_mask``.
        cameras: at the size of the masks.  poses: cam_from_sfm.  points: float64 [P, 3] in the same frame.
    """
    rims, hits, seen = [], 0, 0
    for background, mask, camera, pose in zip(backgrounds, masks, cameras, poses):
        usable = np.ones_like(background) if mask is None else mask
        rims.append(_rim(background).sum() / max(1, _rim(usable).sum()))
        # Points sit on silhouettes, so a pixel of tolerance: only the inside of the background counts.
        inside = cv2.erode(background.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        i, j, ok = pixel_indices(camera, pose, points)
        hits += int(inside[i, j].sum())
        seen += int(ok.sum())
    plausible = hits <= 0.05 * seen and (seen > 0 or not len(points))
    return bool(plausible and float(np.mean(np.array(rims) > 0.6)) >= 0.8)


def _rim(image: np.ndarray) -> np.ndarray:
    """The outermost two pixels of a picture, in a row."""
    inner = np.zeros(image.shape, bool)
    inner[2:-2, 2:-2] = True
    return image[~inner]


def pixel_indices(camera: Camera, pose: Rigid3, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of the points that project into the picture, and bool [P] saying which points those are."""
    with np.errstate(invalid="ignore"):
        uv = camera.project(pose.apply(points))
        ok = (uv >= 0).all(-1) & (uv[:, 0] < camera.width_px) & (uv[:, 1] < camera.height_px)
    return uv[ok, 1].astype(np.int64), uv[ok, 0].astype(np.int64), ok


def visual_hull(
    centres: np.ndarray,
    cell: float,
    backgrounds: list[np.ndarray],
    cameras: list[Camera],
    poses: list[Rigid3],
    votes: int,
) -> np.ndarray:
    """Cells that may hold matter: at least three cameras see them, fewer than ``votes`` wholly before blackness.

    A picture whose whole rim is background shows the whole object: for it, what lies outside the picture is empty too.

    Args:
        centres: float [M, 3] cell centres.  cell: their edge.  poses: camera from the cells' frame.
    Returns:
        bool [M].
    """
    empty, watched = np.zeros(len(centres), np.int32), np.zeros(len(centres), np.int32)
    radius = cell * np.sqrt(3) / 2
    # Most cells are found empty by the first few cameras, if those look from all around.
    n = len(cameras)
    left = np.arange(len(centres))
    for k in sorted(range(n), key=lambda k: (k * 0.6180339887) % 1.0):
        # Distance of each background pixel to the nearest pixel that is not: a cell is empty if its disc fits in.
        clearance = cv2.distanceTransform(backgrounds[k].astype(np.uint8), cv2.DIST_L2, 3)
        i, j, ok = pixel_indices(cameras[k], poses[k], centres[left])
        seen = left[ok]
        if _rim(backgrounds[k]).all():
            empty[left[~ok]] += 1
        z = (centres[seen] - poses[k].center) @ poses[k].rotation[2]
        need = max(cameras[k].focal_px) * radius / np.maximum(z, 1e-9) + 1.0
        watched[seen] += 1
        empty[seen[clearance[i, j] > need]] += 1
        left = left[empty[left] < votes]
    return (empty < votes) & (watched >= min(3, n))

# SPDX-License-Identifier: Apache-2.0
"""The extent of a scene of which only the cameras are known: what most of them have in view."""

from __future__ import annotations

import numpy as np

from medrecon.errors import StageError
from medrecon.radiance.background import pixel_indices
from medrecon.types import Camera, Rigid3

SHARE = 0.5  # of the cameras that must see a place
CELLS = 40  # along each side of the cube that is looked through


def common_box(cameras: list[Camera], poses: list[Rigid3]) -> tuple[np.ndarray, np.ndarray]:
    """Corners float64 [3] and [3], in the poses' frame, of what at least half of the cameras see.

    Looked for in a cube round the point nearest to all lines of sight, up to the nearest camera.

    Raises:
        StageError: the cameras look past each other, or all in one direction: nothing bounds the scene then.
    """
    centre = _middle(cameras, poses)
    reach = min(float(np.linalg.norm(p.center - centre)) for p in poses)
    low, high = centre - reach, centre + reach
    for _ in range(2):  # the second look is a finer one
        edge = (high - low) / CELLS
        axes = [a + (np.arange(CELLS) + 0.5) * e for a, e in zip(low, edge)]
        cells = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        seen = np.zeros(len(cells), int)
        for camera, pose in zip(cameras, poses):
            seen += pixel_indices(camera, pose, cells)[2] & (pose.apply(cells)[:, 2] > 0)
        kept = cells[seen >= SHARE * len(cameras)]
        if not len(kept):
            raise StageError(
                "no place is seen by half of the cameras: the extent of the scene is unknown",
                "check the poses (camera from world, mm, OpenCV axes), or reconstruct points (sfm.triangulate)",
            )
        low, high = kept.min(0) - edge / 2, kept.max(0) + edge / 2
    return low, high


def _middle(cameras: list[Camera], poses: list[Rigid3]) -> np.ndarray:
    """The point with the least squared distance to the lines through the middles of the pictures."""
    a, b = np.zeros((3, 3)), np.zeros(3)
    for camera, pose in zip(cameras, poses):
        d = pose.rotation.T @ camera.unproject(np.array([camera.width_px / 2, camera.height_px / 2]))
        d /= np.linalg.norm(d)
        across = np.eye(3) - np.outer(d, d)
        a, b = a + across, b + across @ pose.center
    # The smallest eigenvalue is about the mean squared sine of the angles between the lines.
    if np.linalg.eigvalsh(a)[0] < np.radians(2) ** 2 * len(poses):
        raise StageError(
            "all cameras look in one direction: nothing says how deep the scene is",
            "views from other sides are needed, or points (sfm.triangulate)",
        )
    return np.linalg.solve(a, b)

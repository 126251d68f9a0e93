# SPDX-License-Identifier: Apache-2.0
"""Camera paths through a scene."""

from __future__ import annotations

import numpy as np

from medrecon.radiance.scene import Scene
from medrecon.types import Rigid3

LARGEST_GAP_DEG = 120.0  # between neighbours on a ring of cameras that goes all round


def path_poses(scene: Scene, path: str, n: int) -> list[Rigid3]:
    """``n`` poses (cam_from_sfm) of an "orbit", of the path through the training "cameras", or of what suits ("auto"):
    an orbit where the cameras stand all round an object and look at it. From elsewhere nobody has seen it.
    """
    around = path == "orbit" or (path == "auto" and looks_inwards(scene) and goes_round(scene))
    return (orbit if around else through_cameras)(scene, n)


def looks_inwards(scene: Scene) -> bool:
    """Whether the cameras stand outside the bounds and look at them."""
    centre = (scene.bounds_min + scene.bounds_max) / 2
    votes = []
    for i in scene.train_ids:
        pose = scene.cam_from_field(scene.cam_from_sfm[i])
        at = pose.center
        outside = ((at < scene.bounds_min) | (at > scene.bounds_max)).any()
        towards = centre - at
        votes.append(outside and pose.rotation[2] @ towards > 0.8 * np.linalg.norm(towards))
    return float(np.mean(votes)) > 0.8


def goes_round(scene: Scene) -> bool:
    """Whether the cameras surround the middle of the bounds: an orbit passes one of them at least every 120 degrees."""
    _, axis, offsets = _ring(scene)
    first, second = _across(axis, offsets)
    angles = np.sort(np.degrees(np.arctan2(offsets @ second, offsets @ first)))
    return float(np.diff([*angles, angles[0] + 360]).max()) <= LARGEST_GAP_DEG


def _ring(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the circle that fits the training cameras best: the target in its middle, its axis (which points up), and the
    offsets of the cameras [N, 3] from the target; field frame.

    The circle lies in the plane of least variance of the camera centres, round the middle of the bounds.
    """
    poses = [scene.cam_from_field(scene.cam_from_sfm[i]) for i in scene.train_ids]
    centres = np.array([p.center for p in poses])
    target = (scene.bounds_min + scene.bounds_max) / 2
    up = -np.mean([p.rotation[1] for p in poses], axis=0)  # image y points down
    axis = np.linalg.svd(centres - centres.mean(0))[2][2]
    if abs(axis @ up) < 0.5 * np.linalg.norm(up):  # no flat ring of cameras: trust what the cameras call up
        axis = up / np.linalg.norm(up)
    return target, axis if axis @ up > 0 else -axis, centres - target


def _across(axis: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors in the plane of the ring, the first towards the first camera."""
    first = offsets[0] - (offsets[0] @ axis) * axis
    first /= np.linalg.norm(first)
    return first, np.cross(axis, first)


def orbit(scene: Scene, n: int) -> list[Rigid3]:
    """``n`` poses (cam_from_sfm) on the circle that fits the training cameras best, all looking at its middle."""
    target, axis, offsets = _ring(scene)
    height = float(np.median(offsets @ axis))
    radius = float(np.median(np.linalg.norm(offsets - np.outer(offsets @ axis, axis), axis=1)))
    first, second = _across(axis, offsets)
    out = []
    for angle in np.linspace(0, 2 * np.pi, n, endpoint=False):
        at = target + radius * (np.cos(angle) * first + np.sin(angle) * second) + height * axis
        out.append(_to_sfm(scene, look_at(at, target, axis)))
    return out


def through_cameras(scene: Scene, n: int) -> list[Rigid3]:
    """``n`` poses (cam_from_sfm) that pass through the training cameras in order of frame id, smoothed a little."""
    poses = [scene.cam_from_sfm[i] for i in scene.train_ids]
    centres = _smooth(np.array([p.center for p in poses]))
    axes = [_smooth(np.array([p.rotation[k] for p in poses])) for k in (1, 2)]
    at = np.linspace(0, len(poses) - 1, n)
    lower = np.minimum(at.astype(int), len(poses) - 2)
    part = (at - lower)[:, None]
    blend = lambda x: x[lower] * (1 - part) + x[lower + 1] * part  # noqa: E731
    centres, down, forward = blend(centres), blend(axes[0]), blend(axes[1])
    return [look_at(c, c + f, -d) for c, f, d in zip(centres, forward, down)]


def look_at(at: np.ndarray, target: np.ndarray, up: np.ndarray) -> Rigid3:
    """Pose (camera from world) of a camera that looks at a target; OpenCV axes."""
    z = (target - at) / np.linalg.norm(target - at)
    x = np.cross(z, up)
    if np.linalg.norm(x) < 1e-9:  # looking straight up or down
        x = np.cross(z, np.eye(3)[np.argmin(np.abs(z))])
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    return Rigid3(rotation, -rotation @ at)


def _smooth(x: np.ndarray) -> np.ndarray:
    """Moving average over three, ends kept."""
    out = x.copy()
    if len(x) > 2:
        out[1:-1] = (x[:-2] + x[1:-1] + x[2:]) / 3
    return out


def _to_sfm(scene: Scene, cam_from_field: Rigid3) -> Rigid3:
    return scene.field_from_sfm.inverse().transform_pose(cam_from_field)

# SPDX-License-Identifier: Apache-2.0
"""Camera paths around and through a volume, as poses in patient RAS millimetres."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

from medrecon.errors import InputError
from medrecon.types import Rigid3


def look_at(eye: np.ndarray, target: np.ndarray, up: np.ndarray) -> Rigid3:
    """``cam_from_world`` of a camera at ``eye`` that looks at ``target`` with ``up`` towards the top of the picture."""
    forward = np.asarray(target, np.float64) - eye
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-6:  # looking along "up": any other direction will do
        right = np.cross(forward, [1.0, 0.0, 0.0] if abs(forward[0]) < 0.9 else [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return Rigid3(rotation, -rotation @ eye)


def orbit(
    center_mm: np.ndarray,
    radius_mm: float,
    n_views: int,
    loops: float = 1.0,
    elevation_deg: tuple[float, float] = (0.0, 30.0),
    elevation_waves: float = 3.0,
    start_deg: float = 0.0,
) -> list[Rigid3]:
    """Cameras on a sphere around the patient's long axis, all looking at the centre.

    Azimuth 0 looks at the front (camera anterior), 90 at the patient's left; elevation is towards superior and swings
    ``elevation_waves`` times between the two bounds along the path.
    """
    turn = np.arange(n_views) / n_views
    azimuth = np.radians(start_deg) + 2 * np.pi * loops * turn
    low, high = np.radians(elevation_deg)
    elevation = (low + high) / 2 + (high - low) / 2 * np.sin(2 * np.pi * elevation_waves * turn)
    offset = np.stack(
        [-np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)], -1
    )
    return [look_at(center_mm + radius_mm * o, center_mm, np.array([0.0, 0.0, 1.0])) for o in offset]


def fly_through(
    points_mm: np.ndarray,
    n_views: int,
    look_ahead_mm: float = 20.0,
    wobble_mm: float = 0.0,
    wobble_turns: float = 4.0,
) -> list[Rigid3]:
    """Cameras at equal distances along a smooth curve through the points, each looking at the curve further on.

    Args:
        points_mm: float [P, 3] RAS, P >= 2.
        look_ahead_mm: how far ahead on the curve the camera looks; beyond the end the curve goes on straight.
        wobble_mm, wobble_turns: the camera circles the curve at this radius, this often in all: pure forward motion
            leaves depth in the middle of the picture undetermined.

    The picture never rolls: its up direction is carried along the curve without twist.
    """
    points = np.asarray(points_mm, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) < 2 or not np.isfinite(points).all():
        raise InputError("a fly-through needs at least two finite points (R, A, S) in mm")
    chord = np.linalg.norm(np.diff(points, axis=0), axis=1)
    if (chord < 1e-6).any():
        raise InputError("two neighbouring points of the fly-through are the same", "remove one of them")
    knots = np.concatenate([[0.0], np.cumsum(chord)])
    curve = CubicSpline(knots, points) if len(points) > 2 else CubicSpline(knots, points, bc_type="natural")
    dense_t = np.linspace(0, knots[-1], max(2000, 20 * len(points)))
    dense = curve(dense_t)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))])

    def at(s: np.ndarray) -> np.ndarray:
        inside = np.stack([np.interp(s, length, dense[:, a]) for a in range(3)], -1)
        end = dense[-1] - dense[-2]
        return inside + np.maximum(s - length[-1], 0)[:, None] * (end / np.linalg.norm(end))

    s = np.linspace(0, length[-1], n_views)
    centre, ahead = at(s), at(s + look_ahead_mm)
    poses, up = [], None
    for i in range(n_views):
        forward = (ahead[i] - centre[i]) / np.linalg.norm(ahead[i] - centre[i])
        if up is None:
            up = np.array([0.0, 1.0, 0.0]) if abs(forward[1]) < 0.9 else np.array([0.0, 0.0, 1.0])
        up = up - forward * (up @ forward)
        up /= np.linalg.norm(up)
        angle = 2 * np.pi * wobble_turns * i / n_views
        aside = wobble_mm * (np.cos(angle) * np.cross(forward, up) + np.sin(angle) * up)
        poses.append(look_at(centre[i] + aside, ahead[i], up))
    return poses

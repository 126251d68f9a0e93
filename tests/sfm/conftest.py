# SPDX-License-Identifier: Apache-2.0
"""Synthetic scenes whose cameras and points are known exactly: the oracle of the structure-from-motion tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from medrecon.images import cv2
from medrecon.types import Camera, Features, Frame, FrameSet, Matches, MatchGraph, Rigid3, TwoView


@dataclass
class Scene:
    frames: FrameSet
    features: dict
    graph: MatchGraph
    camera: Camera
    cam_from_world: dict
    points: np.ndarray


def look_at(center, target, up=(0.0, -1.0, 0.0)) -> Rigid3:
    """OpenCV camera at ``center`` that looks at ``target``."""
    z = np.asarray(target, float) - center
    z /= np.linalg.norm(z)
    x = np.cross(-np.asarray(up, float), z)
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    return Rigid3(rotation, -rotation @ np.asarray(center, float))


def orbit(n, radius=400.0, height=60.0, sweep_deg=360.0, start_deg=0.0, wobble=0.0, target=(0, 0, 0)) -> list[Rigid3]:
    """Cameras around ``target`` (mm); wobble varies radius, height and aim so that nothing is degenerate."""
    rng = np.random.default_rng(5)
    poses = []
    for k in range(n):
        a = np.radians(start_deg + sweep_deg * k / n)
        r, h = radius * (1 + wobble * rng.uniform(-1, 1)), height + wobble * radius * rng.uniform(-1, 1)
        aim = np.asarray(target, float) + wobble * radius * 0.15 * rng.uniform(-1, 1, 3)
        poses.append(look_at(np.asarray(target) + [r * np.sin(a), h, -r * np.cos(a)], aim))
    return poses


def blob(n, rng, radius=100.0, center=(0, 0, 0)) -> tuple[np.ndarray, np.ndarray]:
    """Points on a bumpy sphere and their normals."""
    d = rng.normal(size=(n, 3))
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    r = radius * (1 + 0.2 * np.sin(4 * d[:, 0]) * np.cos(3 * d[:, 1]) + 0.05 * rng.normal(size=n))
    return d * r[:, None] + center, d


def _matches(seen_a, seen_b, rng, outliers):
    common, ia, ib = np.intersect1d(seen_a, seen_b, return_indices=True)
    idx = np.stack([ia, ib], 1).astype(np.int32)
    free_a = np.setdiff1d(np.arange(len(seen_a)), ia)
    free_b = np.setdiff1d(np.arange(len(seen_b)), ib)
    k = min(int(outliers * len(idx)), len(free_a), len(free_b))
    bad = np.stack([rng.permutation(free_a)[:k], rng.permutation(free_b)[:k]], 1).astype(np.int32)
    inliers = np.r_[np.ones(len(idx), bool), np.zeros(k, bool)]
    return np.r_[idx, bad].astype(np.int32), inliers


def make_scene(
    poses,
    *,
    points=None,
    normals=None,
    n_points=600,
    camera=None,
    noise_px=0.3,
    outliers=0.2,
    leaks=0.0,
    min_inliers=15,
    seed=0,
    known_cameras=False,
    known_poses=False,
    frame_ids=None,
    folder: Path = Path("nowhere"),
    cameras=None,
) -> Scene:
    """Project points, add pixel noise, add wrong matches.

    outliers: wrong putative matches per right one (flagged as such).  leaks: share of them that slipped through.
    """
    rng = np.random.default_rng(seed)
    camera = camera or Camera("SIMPLE_RADIAL", 640, 480, (620.0, 320.0, 240.0, 0.0))
    if points is None:
        points, normals = blob(n_points, rng)
    ids = list(frame_ids or range(len(poses)))
    cameras = cameras or {i: camera for i in ids}
    frames, features, seen = [], {}, {}
    for i, pose in zip(ids, poses):
        c = cameras[i]
        local = pose.apply(points)
        xy = c.project(local) + rng.normal(scale=noise_px, size=(len(points), 2))
        ok = np.isfinite(xy).all(1) & (xy > 1).all(1) & (xy < [c.width_px - 1, c.height_px - 1]).all(1)
        if normals is not None:
            ok &= ((pose.center - points) * normals).sum(1) > 0.2 * np.linalg.norm(pose.center - points, axis=1)
        visible = np.flatnonzero(ok)
        clutter = rng.uniform(1, [c.width_px - 1, c.height_px - 1], (60, 2))
        order = rng.permutation(len(visible) + 60)  # keypoint index says nothing about the point
        all_xy = np.r_[xy[visible], clutter][order].astype(np.float32)
        seen[i] = np.r_[visible, -1 - rng.permutation(10**6)[:60] - 1000 * (i + 1)][order]
        n = len(all_xy)
        features[i] = Features(
            all_xy, np.ones(n, np.float32), np.zeros((n, 4), np.float32), "l2", (c.width_px, c.height_px), "synthetic"
        ).validate()
        frames.append(
            Frame(
                i, f"{i:06d}", folder / f"{i:06d}.png", c.width_px, c.height_px,
                camera=c if known_cameras else None, cam_from_world_mm=pose if known_poses else None,
            )
        )  # fmt: skip
    pairs = []
    for a, ia in enumerate(ids):
        for ib in ids[a + 1 :]:
            idx, inliers = _matches(seen[ia], seen[ib], rng, outliers)
            good = inliers.sum() >= min_inliers
            if leaks:
                inliers = inliers | (rng.random(len(inliers)) < leaks)
            if not good:
                inliers = np.zeros(len(idx), bool)
            m = Matches(idx, np.ones(len(idx), np.float32)).validate(len(features[ia]), len(features[ib]))
            f = np.zeros((3, 3))
            if good:
                good_idx = idx[inliers]
                f, _ = cv2.findFundamentalMat(
                    features[ia].xy[good_idx[:, 0]], features[ib].xy[good_idx[:, 1]], cv2.FM_8POINT
                )
            pairs.append(TwoView(ia, ib, m, inliers, "fundamental" if good else "none", f))
    truth = dict(zip(ids, poses))
    return Scene(FrameSet(tuple(frames), "synthetic"), features, MatchGraph(tuple(pairs)), camera, truth, points)


@pytest.fixture
def scenes():
    """The factory functions, for tests (which cannot import a conftest)."""

    class Factory:
        pass

    f = Factory()
    f.make, f.orbit, f.blob, f.look_at = make_scene, orbit, blob, look_at
    return f

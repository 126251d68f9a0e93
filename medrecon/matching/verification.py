# SPDX-License-Identifier: Apache-2.0
"""Two-view geometric verification: which putative matches one rigid scene can explain."""

from __future__ import annotations

from zlib import crc32

import numpy as np
from pydantic import Field

from medrecon.config import ComponentConfig
from medrecon.errors import InputError
from medrecon.images import cv2  # noqa: F401  (cv2 must be imported before pycolmap)
from medrecon.types import Camera, Features, Matches, TwoView

import pycolmap  # isort: skip


class VerificationConfig(ComponentConfig):
    max_error_px: float = Field(4.0, gt=0, description="greatest Sampson (E, F) or transfer (H) error of an inlier")
    min_inliers: int = Field(15, ge=8, description="pairs with fewer inliers are not verified")
    min_inlier_ratio: float = Field(
        0.0, ge=0, le=1, description="pairs with a smaller share of inliers are not verified"
    )
    confidence: float = Field(0.999, gt=0, lt=1, description="probability of having drawn one sample free of outliers")
    max_trials: int = Field(10000, ge=1, description="greatest number of random samples per model")
    max_homography_ratio: float = Field(
        0.8, gt=0, le=1, description="homography inliers / epipolar inliers above this: the scene counts as flat, "
        "or the camera as only turning"
    )  # fmt: skip
    min_calibrated_ratio: float = Field(
        0.95, gt=0, le=1, description="essential / fundamental inliers above this: the known intrinsics are believed"
    )
    drop_overlay: bool = Field(
        True, description="discard pairs whose matches only follow something fixed to the image border (text, a frame)"
    )


def verify(
    features_a: Features,
    features_b: Features,
    matches: Matches,
    camera_a: Camera | None,
    camera_b: Camera | None,
    config: VerificationConfig,
    seed: int,
    frame_ids: tuple[int, int] = (0, 1),
) -> TwoView:
    """Estimate two-view geometry by LO-RANSAC and mark the inliers.

    With both cameras known an essential matrix is estimated beside fundamental matrix and homography, without them
    only the latter two; the kind is chosen by the ratio of their inliers as in COLMAP (Schoenberger and Frahm,
    "Structure-from-Motion Revisited", CVPR 2016, section 4.1). The work is done by
    ``pycolmap.estimate_two_view_geometry``. The same seed and frame ids give the same result, whatever ran before.

    Args:
        camera_a, camera_b: known intrinsics at the features' image size, or None.
        frame_ids: stamped on the result and mixed into the seed.

    Raises:
        InputError: a camera does not belong to an image of the features' size.
    """
    m = len(matches)
    none = TwoView(*frame_ids, matches, np.zeros(m, bool))
    if m < config.min_inliers:
        return none
    cameras = [_camera(c, f) for c, f in ((camera_a, features_a), (camera_b, features_b))]
    # Points in match order, so that inlier k is match k.
    same = np.repeat(np.arange(m, dtype=np.uint32)[:, None], 2, 1)
    geometry = pycolmap.estimate_two_view_geometry(
        cameras[0],
        features_a.xy[matches.idx[:, 0]].astype(np.float64),
        cameras[1],
        features_b.xy[matches.idx[:, 1]].astype(np.float64),
        same,
        _options(config, pair_seed(seed, *frame_ids)),
    )
    kind, matrix = _kind(geometry)
    inliers = np.zeros(m, bool)
    found = np.asarray(geometry.inlier_matches).reshape(-1, 2)
    if kind == "none" or len(found) < config.min_inliers or matrix is None or not np.isfinite(matrix).all():
        return none
    inliers[found[:, 0]] = True
    return TwoView(*frame_ids, matches, inliers, kind, np.asarray(matrix, np.float64))


def pair_seed(seed: int, frame_id_a: int, frame_id_b: int) -> int:
    """A seed of 31 bits for one pair, independent of the order in which pairs are worked on."""
    return crc32(f"{seed} {frame_id_a} {frame_id_b}".encode()) & 0x7FFFFFFF


def _options(config: VerificationConfig, seed: int) -> "pycolmap.TwoViewGeometryOptions":
    options = pycolmap.TwoViewGeometryOptions()
    options.min_num_inliers = config.min_inliers
    options.min_inlier_ratio = config.min_inlier_ratio
    options.min_E_F_inlier_ratio = config.min_calibrated_ratio
    options.max_H_inlier_ratio = config.max_homography_ratio
    options.detect_watermark = config.drop_overlay
    options.ransac.max_error = config.max_error_px
    options.ransac.confidence = config.confidence
    options.ransac.max_num_trials = config.max_trials
    options.ransac.min_num_trials = min(100, config.max_trials)
    options.ransac.random_seed = seed
    return options


def _camera(camera: Camera | None, features: Features) -> "pycolmap.Camera":
    """pycolmap's camera; a rough guess without prior where nothing is known (then no essential matrix is tried)."""
    w, h = features.image_size
    if camera is None:
        return pycolmap.Camera(model="SIMPLE_PINHOLE", width=w, height=h, params=[1.2 * max(w, h), w / 2, h / 2])
    if (camera.width_px, camera.height_px) != (w, h):
        raise InputError(
            f"camera is for {camera.width_px}x{camera.height_px} px but the image has {w}x{h}",
            "scale the intrinsics to the image size",
        )
    out = pycolmap.Camera(model=camera.model, width=w, height=h, params=list(camera.params))
    out.has_prior_focal_length = True
    return out


def _kind(geometry: "pycolmap.TwoViewGeometry") -> tuple[str, np.ndarray | None]:
    names = pycolmap.TwoViewGeometryConfiguration
    config = names(geometry.config)
    if config == names.CALIBRATED:
        return "essential", geometry.E
    if config == names.UNCALIBRATED:
        return "fundamental", geometry.F
    if config in (names.PLANAR, names.PANORAMIC, names.PLANAR_OR_PANORAMIC):
        return "homography", geometry.H
    return "none", None

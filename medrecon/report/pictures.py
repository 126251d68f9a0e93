# SPDX-License-Identifier: Apache-2.0
"""Pictures for the report: scaled, drawn upon, coloured and packed into data URIs."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from medrecon.images import cv2
from medrecon.radiance.depth_colours import depth_picture, depth_range
from medrecon.types import Features, TwoView

INLIER = (45, 212, 191)
REJECTED = (251, 146, 60)
KEYPOINT = (250, 204, 21)
ERROR_FULL_SCALE = 0.25


@dataclass(frozen=True, slots=True)
class Picture:
    """An embedded picture with its words."""

    uri: str
    width: int
    height: int
    alt: str
    caption: str = ""


def embed(image: np.ndarray, alt: str, caption: str = "", quality: int = 80) -> Picture:
    """uint8 [H, W, 3] RGB or [H, W] -> WebP data URI."""
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".webp", np.ascontiguousarray(bgr), [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
    uri = "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()
    return Picture(uri, image.shape[1], image.shape[0], alt, caption)


def fit(image: np.ndarray, width_px: int) -> np.ndarray:
    """Scaled down to at most this width (and twice it in height); never up."""
    height, width = image.shape[:2]
    factor = min(1.0, width_px / width, 2 * width_px / height)
    if factor == 1.0:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def draw_keypoints(image: np.ndarray, features: Features, width_px: int = 560, most: int = 1500) -> np.ndarray:
    """The picture, a little darker, with the strongest keypoints as dots."""
    small = (fit(image, width_px) * 0.8).astype(np.uint8)
    factor = small.shape[1] / image.shape[1]
    for x, y in features.xy[np.argsort(-features.scores, kind="stable")[:most]]:
        _dot(small, (x * factor, y * factor), KEYPOINT, 2)
    return small


def draw_matches(
    image_a: np.ndarray, image_b: np.ndarray, a: Features, b: Features, pair: TwoView, width_px: int = 560
) -> np.ndarray:
    """Both pictures side by side; matches that survived verification over those that did not."""
    small_a, small_b = fit(image_a, width_px), fit(image_b, width_px)
    gap = 8
    height = max(small_a.shape[0], small_b.shape[0])
    canvas = np.zeros((height, small_a.shape[1] + gap + small_b.shape[1], 3), np.uint8)
    canvas[: small_a.shape[0], : small_a.shape[1]] = small_a * 0.7
    canvas[: small_b.shape[0], small_a.shape[1] + gap :] = small_b * 0.7
    scale_a, scale_b = small_a.shape[1] / image_a.shape[1], small_b.shape[1] / image_b.shape[1]
    shift = np.array([small_a.shape[1] + gap, 0.0])
    for keep, color, most in ((~pair.inliers, REJECTED, 40), (pair.inliers, INLIER, 90)):
        rows = pair.putative.idx[keep]
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)]
        for i, j in rows:
            p, q = a.xy[i] * scale_a, b.xy[j] * scale_b + shift
            cv2.line(canvas, _sub(p), _sub(q), color, 1, cv2.LINE_AA, 4)
            _dot(canvas, p, color, 2)
            _dot(canvas, q, color, 2)
    return canvas


def _sub(p) -> tuple[int, int]:
    """Continuous position (pixel centre at 0.5) -> cv2's fixed point with four fractional bits."""
    return int(round((float(p[0]) - 0.5) * 16)), int(round((float(p[1]) - 0.5) * 16))


def _dot(image: np.ndarray, p, color: tuple[int, int, int], radius: int) -> None:
    cv2.circle(image, _sub(p), radius * 16, color, -1, cv2.LINE_AA, 4)


def error_map(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Mean absolute difference of the channels: 0 dark, ``ERROR_FULL_SCALE`` of full scale bright, masked-out grey."""
    error = np.abs(image.astype(np.float32) - reference.astype(np.float32)).mean(-1) / 255
    colored = _colormap(error / ERROR_FULL_SCALE, cv2.COLORMAP_INFERNO)
    if mask is not None:
        colored[~mask] = 128
    return colored


def depth_map(depth: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Near bright to far dark, nothing hit grey; returns the picture and the depths at both ends (2 % and 98 %)."""
    near, far = depth_range(depth)
    return depth_picture(depth, near, far), near, far


def heat(values: np.ndarray) -> np.ndarray:
    """float [H, W] in 0..1 -> RGB; used for the pair matrix."""
    return _colormap(values, cv2.COLORMAP_VIRIDIS)


def _colormap(values: np.ndarray, table: int) -> np.ndarray:
    grey = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, table), cv2.COLOR_BGR2RGB)

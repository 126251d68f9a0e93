# SPDX-License-Identifier: Apache-2.0
"""Camera intrinsics in COLMAP's models. OpenCV axes (x right, y down, z forward); pixel centre at (0.5, 0.5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medrecon.errors import InputError

# Parameter layout per model, in COLMAP's order.
CAMERA_MODELS: dict[str, tuple[str, ...]] = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "OPENCV_FISHEYE": ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4"),
}


@dataclass(frozen=True, slots=True)
class Camera:
    """Intrinsics of one (possibly shared) camera.

    Attributes:
        model: a key of ``CAMERA_MODELS``.
        width_px, height_px: image size.
        params: parameters in the model's order; lengths in pixels, distortion coefficients unitless.
    """

    model: str
    width_px: int
    height_px: int
    params: tuple[float, ...]

    def validate(self) -> "Camera":
        if self.model not in CAMERA_MODELS:
            raise InputError(f"camera model {self.model!r} is not known", f"one of {', '.join(CAMERA_MODELS)}")
        if len(self.params) != len(CAMERA_MODELS[self.model]) or not np.isfinite(self.params).all():
            raise InputError(f"{self.model} takes {CAMERA_MODELS[self.model]}, got {self.params}")
        if self.width_px < 1 or self.height_px < 1:
            raise InputError(f"camera image size {self.width_px}x{self.height_px} is not positive")
        return self

    @property
    def focal_px(self) -> tuple[float, float]:
        """(fx, fy) in pixels."""
        return (self.params[0], self.params[1]) if "fy" in CAMERA_MODELS[self.model] else (self.params[0],) * 2

    @property
    def principal_px(self) -> tuple[float, float]:
        """(cx, cy) in pixels; (width/2, height/2) is the exact centre of the image."""
        i = CAMERA_MODELS[self.model].index("cx")
        return self.params[i], self.params[i + 1]

    def K(self) -> np.ndarray:
        """float64 [3, 3] pinhole part."""
        (fx, fy), (cx, cy) = self.focal_px, self.principal_px
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])

    @property
    def distortion(self) -> tuple[float, ...]:
        """Coefficients after the pinhole part: (k1[, k2[, p1, p2]]) or fisheye (k1..k4); () for pinholes."""
        names = CAMERA_MODELS[self.model]
        return self.params[names.index("cy") + 1 :]

    def scaled(self, width_px: int, height_px: int) -> "Camera":
        """The same camera on the image resized to width_px x height_px."""
        sx, sy = width_px / self.width_px, height_px / self.height_px
        factor = {"f": (sx + sy) / 2, "fx": sx, "cx": sx, "fy": sy, "cy": sy}
        params = tuple(p * factor.get(n, 1.0) for n, p in zip(CAMERA_MODELS[self.model], self.params))
        return Camera(self.model, width_px, height_px, params)

    def _distort(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        d = self.distortion
        if not d:
            return x, y
        if self.model == "OPENCV_FISHEYE":
            r = np.hypot(x, y)
            theta = np.arctan(r)
            t2 = theta * theta
            poly = theta * (1 + t2 * (d[0] + t2 * (d[1] + t2 * (d[2] + t2 * d[3]))))
            s = np.where(r > 1e-12, poly / np.maximum(r, 1e-12), 1.0)
            return x * s, y * s
        k1, k2, p1, p2 = (tuple(d) + (0.0,) * 4)[:4]
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * k2)
        return (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y),
        )

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points float [..., 3] in the camera frame -> pixels float64 [..., 2]; NaN where z <= 0."""
        p = np.asarray(points, np.float64)
        z = np.where(p[..., 2] > 0, p[..., 2], np.nan)
        x, y = self._distort(p[..., 0] / z, p[..., 1] / z)
        (fx, fy), (cx, cy) = self.focal_px, self.principal_px
        return np.stack([fx * x + cx, fy * y + cy], -1)

    def unproject(self, xy_px: np.ndarray) -> np.ndarray:
        """Pixels float [..., 2] -> directions float64 [..., 3] with z = 1 (distortion undone by fixed-point steps)."""
        xy = np.asarray(xy_px, np.float64)
        (fx, fy), (cx, cy) = self.focal_px, self.principal_px
        u, v = (xy[..., 0] - cx) / fx, (xy[..., 1] - cy) / fy
        x, y = u.copy(), v.copy()
        if self.distortion:
            for _ in range(50):
                dx, dy = self._distort(x, y)
                x, y = x + (u - dx), y + (v - dy)
        return np.stack([x, y, np.ones_like(x)], -1)

    def to_dict(self) -> dict:
        return {
            "model": self.model,
            "width_px": self.width_px,
            "height_px": self.height_px,
            "params": [float(p) for p in self.params],
        }

    @staticmethod
    def from_dict(data: dict) -> "Camera":
        return Camera(data["model"], int(data["width_px"]), int(data["height_px"]), tuple(data["params"])).validate()

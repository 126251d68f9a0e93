# SPDX-License-Identifier: Apache-2.0
"""Local features of one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medrecon.errors import InputError
from medrecon.types.storage import read_npz, write_npz


@dataclass(frozen=True, slots=True)
class Features:
    """Keypoints and descriptors.

    Attributes:
        xy: float32 [N, 2] pixels, (0.5, 0.5) is the centre of the first pixel. Never half precision: its step is
            0.5 px beyond x = 512.
        scores: float32 [N], higher is better.
        descriptors: float32 [N, D] for metric "l2"; uint8 [N, D bytes] (packed bits) for "hamming".
        metric: "l2" or "hamming".
        image_size: (width, height) px.
        extractor: name of the component that made them; matchers check it against what they accept.
        scale: float32 [N] keypoint diameter in px, or None.
        angle: float32 [N] orientation in radians, x towards y, or None.
    """

    xy: np.ndarray
    scores: np.ndarray
    descriptors: np.ndarray
    metric: str
    image_size: tuple[int, int]
    extractor: str
    scale: np.ndarray | None = None
    angle: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.xy)

    def validate(self) -> "Features":
        n = len(self.xy)
        who = f"features of {self.extractor!r}"
        if self.xy.dtype != np.float32 or self.xy.shape != (n, 2) or not np.isfinite(self.xy).all():
            raise InputError(f"{who}: xy must be finite float32 [N, 2], got {self.xy.dtype} {self.xy.shape}")
        if self.scores.shape != (n,) or self.scores.dtype != np.float32:
            raise InputError(f"{who}: scores must be float32 [{n}], got {self.scores.dtype} {self.scores.shape}")
        want = {"l2": np.float32, "hamming": np.uint8}.get(self.metric)
        if want is None:
            raise InputError(f"{who}: metric must be 'l2' or 'hamming', got {self.metric!r}")
        if self.descriptors.ndim != 2 or len(self.descriptors) != n or self.descriptors.dtype != want:
            raise InputError(f"{who}: {self.metric} descriptors must be {want.__name__} [{n}, D]")
        if self.metric == "l2" and not np.isfinite(self.descriptors).all():
            raise InputError(f"{who}: descriptors hold NaN or infinity")
        w, h = self.image_size
        if n and ((self.xy < 0).any() or (self.xy[:, 0] > w).any() or (self.xy[:, 1] > h).any()):
            raise InputError(f"{who}: keypoints lie outside the {w}x{h} image")
        for name, a in (("scale", self.scale), ("angle", self.angle)):
            if a is not None and (a.shape != (n,) or a.dtype != np.float32):
                raise InputError(f"{who}: {name} must be float32 [{n}] or None")
        return self

    def save(self, path: Path) -> None:
        arrays = {
            "xy": self.xy,
            "scores": self.scores,
            "descriptors": self.descriptors,
            "image_size": np.array(self.image_size, np.int32),
            "metric": np.array(self.metric),
            "extractor": np.array(self.extractor),
        }
        if self.scale is not None:
            arrays["scale"] = self.scale
        if self.angle is not None:
            arrays["angle"] = self.angle
        write_npz(path, arrays)

    @staticmethod
    def load(path: Path) -> "Features":
        z = read_npz(path)
        return Features(
            z["xy"],
            z["scores"],
            z["descriptors"],
            str(z["metric"]),
            (int(z["image_size"][0]), int(z["image_size"][1])),
            str(z["extractor"]),
            z.get("scale"),
            z.get("angle"),
        ).validate()

# SPDX-License-Identifier: Apache-2.0
"""Rigid and similarity transforms. Always named ``a_from_b``: they take coordinates in b to coordinates in a."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from medrecon.errors import InputError


def _check_rotation(rotation: np.ndarray, name: str) -> None:
    if rotation.shape != (3, 3) or not np.isfinite(rotation).all():
        raise InputError(f"{name}: rotation must be a finite 3x3 matrix, got shape {rotation.shape}")
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-6 or np.linalg.det(rotation) < 0:
        raise InputError(f"{name}: matrix is not a rotation (orthonormal, determinant +1)")


@dataclass(frozen=True, slots=True)
class Rigid3:
    """``x_a = rotation @ x_b + translation``.

    Attributes:
        rotation: float64 [3, 3], orthonormal, determinant +1.
        translation: float64 [3], in the unit of the frames it joins.
    """

    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    translation: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def validate(self) -> "Rigid3":
        _check_rotation(self.rotation, "Rigid3")
        if self.translation.shape != (3,) or not np.isfinite(self.translation).all():
            raise InputError("Rigid3: translation must be three finite numbers")
        return self

    def inverse(self) -> "Rigid3":
        return Rigid3(self.rotation.T, -self.rotation.T @ self.translation)

    def apply(self, points: np.ndarray) -> np.ndarray:
        """points float [..., 3] in b -> float64 [..., 3] in a."""
        return np.asarray(points, np.float64) @ self.rotation.T + self.translation

    def __matmul__(self, other: "Rigid3") -> "Rigid3":
        return Rigid3(self.rotation @ other.rotation, self.rotation @ other.translation + self.translation)

    @property
    def center(self) -> np.ndarray:
        """float64 [3]: origin of a in b (for ``cam_from_world``: the camera centre in the world)."""
        return -self.rotation.T @ self.translation

    def matrix(self) -> np.ndarray:
        """float64 [4, 4] homogeneous."""
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = self.rotation, self.translation
        return out

    @staticmethod
    def from_matrix(matrix: np.ndarray) -> "Rigid3":
        m = np.asarray(matrix, np.float64)
        return Rigid3(m[:3, :3].copy(), m[:3, 3].copy()).validate()


@dataclass(frozen=True, slots=True)
class Sim3:
    """``x_a = scale * rotation @ x_b + translation``.

    Attributes:
        scale: positive, unit of a per unit of b.
        rotation: float64 [3, 3].
        translation: float64 [3], in the unit of a.
    """

    scale: float = 1.0
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    translation: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def validate(self) -> "Sim3":
        _check_rotation(self.rotation, "Sim3")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise InputError(f"Sim3: scale must be positive and finite, got {self.scale}")
        if self.translation.shape != (3,) or not np.isfinite(self.translation).all():
            raise InputError("Sim3: translation must be three finite numbers")
        return self

    def inverse(self) -> "Sim3":
        return Sim3(1.0 / self.scale, self.rotation.T, -(self.rotation.T @ self.translation) / self.scale)

    def apply(self, points: np.ndarray) -> np.ndarray:
        """points float [..., 3] in b -> float64 [..., 3] in a."""
        return self.scale * (np.asarray(points, np.float64) @ self.rotation.T) + self.translation

    def __matmul__(self, other: "Sim3") -> "Sim3":
        return Sim3(
            self.scale * other.scale,
            self.rotation @ other.rotation,
            self.scale * (self.rotation @ other.translation) + self.translation,
        )

    def transform_pose(self, cam_from_b: Rigid3) -> Rigid3:
        """The same camera expressed against frame a: returns ``cam_from_a`` with lengths in the unit of a."""
        rotation = cam_from_b.rotation @ self.rotation.T
        center = self.apply(cam_from_b.center)
        return Rigid3(rotation, -rotation @ center)

    def matrix(self) -> np.ndarray:
        """float64 [4, 4] homogeneous."""
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = self.scale * self.rotation, self.translation
        return out

    def to_dict(self) -> dict:
        return {
            "scale": float(self.scale),
            "rotation": self.rotation.tolist(),
            "translation": self.translation.tolist(),
        }

    @staticmethod
    def from_dict(data: dict) -> "Sim3":
        return Sim3(
            float(data["scale"]), np.array(data["rotation"], np.float64), np.array(data["translation"], np.float64)
        ).validate()

# SPDX-License-Identifier: Apache-2.0
"""Transfer functions: how voxel values become colour and opacity, with presets for what one wants to see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from medrecon.config.base import ComponentConfig
from medrecon.errors import ConfigError, InputError
from medrecon.types import Volume


@dataclass(frozen=True, slots=True)
class TransferFunction:
    """Piecewise linear colour and opacity over voxel values.

    Attributes:
        points: float64 [P, 5]: value, red, green, blue (0..1), opacity per millimetre (0..1); values ascending.
        units: "value" (voxel values as they are, Hounsfield for CT) or "fraction" (1 = the 99.5th percentile of the
            voxels above zero: for MR, whose values mean nothing by themselves).
        ambient, diffuse, specular, specular_power: Phong shading by the gradient.
        surface_value: the value whose isosurface is what one sees, None to derive it from the opacity.
    """

    points: np.ndarray
    units: str = "value"
    ambient: float = 0.25
    diffuse: float = 0.7
    specular: float = 0.0
    specular_power: float = 20.0
    surface_value: float | None = None

    def on(self, volume: Volume) -> "TransferFunction":
        """The same function in the volume's own values.

        Raises:
            InputError: nothing in the volume would be visible.
        """
        function = self
        if self.units == "fraction":
            positive = volume.data[::2, ::2, ::2]
            positive = positive[positive > 0]
            one = float(np.percentile(positive, 99.5)) if positive.size else 1.0
            points = self.points.copy()
            points[:, 0] *= one
            level = None if self.surface_value is None else self.surface_value * one
            function = replace(self, points=points, units="value", surface_value=level)
        lo, hi = float(volume.data.min()), float(volume.data.max())
        if function.alpha(np.linspace(lo, hi, 4096)).max() < 0.01:
            raise InputError(
                f"nothing is visible: all opacity lies outside the volume's values {lo:g} to {hi:g}",
                "choose another transfer preset, or give your own points",
            )
        return function

    def alpha(self, values: np.ndarray) -> np.ndarray:
        """Opacity per millimetre at the values, float64 of the same shape."""
        return np.interp(values, self.points[:, 0], self.points[:, 4])

    def level(self) -> float:
        """The isovalue of the visible surface: where the first rise of the opacity passes half of a surface's.

        A ray is half spent after ln 2 / -ln(1 - a) mm in tissue of opacity a per mm; the level is the lowest value at
        which that is 1 mm or less (a = 0.5 per mm), or half the greatest opacity if none is so dense.
        """
        if self.surface_value is not None:
            return self.surface_value
        fine = np.linspace(self.points[0, 0], self.points[-1, 0], 65536)
        alpha = self.alpha(fine)
        dense = alpha >= min(0.5, 0.5 * alpha.max())
        # airway-like functions are dense at both ends; the surface is where the transparent range ends
        clear = np.flatnonzero(alpha <= 1e-6)
        start = clear[0] if clear.size else 0
        rise = np.flatnonzero(dense[start:])
        return float(fine[start + rise[0]] if rise.size else fine[dense.argmax()])


def _points(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float64)


# Colours follow anatomical convention: ivory bone, red vessels, pink mucosa. CT values in HU.
PRESETS: dict[str, TransferFunction] = {
    "bone": TransferFunction(
        _points(
            (-1000, 0.0, 0.0, 0.0, 0.0),
            (150, 0.60, 0.24, 0.16, 0.0),
            (250, 0.78, 0.50, 0.36, 0.9),
            (400, 0.92, 0.78, 0.60, 1.0),
            (800, 1.0, 0.95, 0.84, 1.0),
            (3000, 1.0, 1.0, 1.0, 1.0),
        )
    ),
    "skin": TransferFunction(
        _points(
            (-1000, 0.0, 0.0, 0.0, 0.0),
            (-500, 0.55, 0.32, 0.24, 0.0),
            (-250, 0.80, 0.56, 0.44, 0.7),
            (-50, 0.88, 0.68, 0.56, 1.0),
            (3000, 0.95, 0.85, 0.78, 1.0),
        ),
        specular=0.15,
    ),
    "vessels": TransferFunction(
        _points(
            (-1000, 0.0, 0.0, 0.0, 0.0),
            (110, 0.45, 0.05, 0.04, 0.0),
            (170, 0.75, 0.10, 0.08, 0.25),
            (260, 0.90, 0.28, 0.20, 0.7),
            (420, 0.95, 0.80, 0.66, 1.0),
            (3000, 1.0, 1.0, 0.95, 1.0),
        ),
        specular=0.1,
    ),
    "airway": TransferFunction(
        _points(
            (-1000, 0.5, 0.2, 0.2, 0.0),
            (-820, 0.65, 0.30, 0.28, 0.0),
            (-600, 0.80, 0.42, 0.38, 0.6),
            (-300, 0.88, 0.52, 0.46, 1.0),
            (100, 0.95, 0.66, 0.58, 1.0),
            (3000, 1.0, 0.9, 0.8, 1.0),
        ),
        ambient=0.35,
        diffuse=0.9,
        specular=0.15,
    ),
    "brain-surface": TransferFunction(
        _points(
            (0.0, 0.0, 0.0, 0.0, 0.0),
            (0.38, 0.45, 0.26, 0.24, 0.0),
            (0.52, 0.72, 0.50, 0.46, 0.5),
            (0.70, 0.86, 0.70, 0.64, 1.0),
            (1.0, 0.98, 0.93, 0.88, 1.0),
            (2.0, 1.0, 1.0, 1.0, 1.0),
        ),
        units="fraction",
    ),
}

PresetName = Literal["bone", "skin", "vessels", "airway", "brain-surface"]


class TransferFunctionConfig(ComponentConfig):
    """A transfer function of one's own, written in YAML."""

    points: tuple[tuple[float, float, float, float, float], ...] = Field(
        description="rows of [value, red, green, blue, opacity per mm]; values ascending, the others from 0 to 1"
    )
    units: Literal["value", "fraction"] = Field(
        "value", description="value: voxel values (HU for CT); fraction: 1 = the 99.5th percentile of positive voxels"
    )
    ambient: float = Field(0.25, ge=0, le=1, description="light from everywhere")
    diffuse: float = Field(0.7, ge=0, le=1, description="light scattered by surfaces")
    specular: float = Field(0.0, ge=0, le=1, description="strength of highlights")
    specular_power: float = Field(20.0, ge=1, le=200, description="how small highlights are")
    surface_value: float | None = Field(None, description="isovalue of the true surface; null: from the opacity")

    @field_validator("points")
    @classmethod
    def _ascending(cls, points):
        rows = np.array(points, np.float64).reshape(-1, 5)
        if len(rows) < 2 or (np.diff(rows[:, 0]) <= 0).any():
            raise ValueError("give at least two points, values ascending")
        if rows[:, 1:].min() < 0 or rows[:, 1:].max() > 1:
            raise ValueError("colours and opacity must lie between 0 and 1")
        if rows[:, 4].max() <= 0:
            raise ValueError("at least one point needs an opacity above 0")
        return points


def transfer_function(choice: str | TransferFunctionConfig) -> TransferFunction:
    """A preset by name, or the user's own.  Raises ConfigError for an unknown name."""
    if isinstance(choice, TransferFunctionConfig):
        options = choice.model_dump()
        return TransferFunction(np.array(options.pop("points"), np.float64), **options)
    if choice not in PRESETS:
        raise ConfigError(f"transfer function {choice!r} is not known", f"one of {', '.join(PRESETS)}")
    return PRESETS[choice]

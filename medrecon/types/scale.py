# SPDX-License-Identifier: Apache-2.0
"""Metric scale: what one unit of the reconstruction is worth, where that is known from, and how well."""

from __future__ import annotations

from dataclasses import dataclass, field

from medrecon.errors import InputError
from medrecon.types.transforms import Sim3


@dataclass(frozen=True, slots=True)
class Scale:
    """Travels into every export and measurement.

    Attributes:
        unit: "mm" when metric scale is known, else "unknown" (then ``metric_from_sfm`` is the identity).
        metric_from_sfm: takes reconstruction coordinates to millimetres.
        source: where the scale comes from, in words ("known camera poses", "known distance 12.0 mm", ...).
        relative_sigma: one-sigma relative uncertainty of the scale factor; None when it cannot be estimated.
    """

    unit: str = "unknown"
    metric_from_sfm: Sim3 = field(default_factory=Sim3)
    source: str = "none given"
    relative_sigma: float | None = None

    def validate(self) -> "Scale":
        if self.unit not in ("mm", "unknown"):
            raise InputError(f"Scale: unit must be 'mm' or 'unknown', got {self.unit!r}")
        self.metric_from_sfm.validate()
        return self

    @property
    def is_metric(self) -> bool:
        return self.unit == "mm"

    @property
    def stamp(self) -> str:
        """The words every figure and file carries: "mm" or "scale unknown"."""
        return "mm" if self.is_metric else "scale unknown"

    def to_dict(self) -> dict:
        return {
            "unit": self.unit,
            "metric_from_sfm": self.metric_from_sfm.to_dict(),
            "source": self.source,
            "relative_sigma": self.relative_sigma,
        }

    @staticmethod
    def from_dict(data: dict) -> "Scale":
        return Scale(
            data["unit"], Sim3.from_dict(data["metric_from_sfm"]), data["source"], data["relative_sigma"]
        ).validate()

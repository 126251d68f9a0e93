# SPDX-License-Identifier: Apache-2.0
"""One measured number, with everything needed to trace it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from medrecon.errors import InputError


@dataclass(frozen=True, slots=True)
class Metric:
    """A number for the report.

    Attributes:
        name: key in result.json, e.g. "ate_mm".
        value: None when it could not be measured (``note`` says why).
        unit: "mm", "mm^2", "mm^3", "px", "dB", "deg", "s", "" for unitless or "units" when the scale is unknown.
        better: "higher", "lower" or "" when neither.
        sigma: one-sigma uncertainty or spread in the same unit, None when unknown.
        n: number of samples behind the value, None when it does not apply.
        source: stage and method it comes from, in words.
        note: a condition the reader must know, else "".
    """

    name: str
    value: float | None
    unit: str = ""
    better: str = ""
    sigma: float | None = None
    n: int | None = None
    source: str = ""
    note: str = ""

    def validate(self) -> "Metric":
        if self.better not in ("", "higher", "lower"):
            raise InputError(f"metric {self.name}: better must be 'higher', 'lower' or ''")
        if self.value is not None and self.value != self.value:
            raise InputError(f"metric {self.name}: NaN is not a value; use None and say why in note")
        return self

    def to_dict(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_dict(data: dict) -> "Metric":
        return Metric(**data).validate()

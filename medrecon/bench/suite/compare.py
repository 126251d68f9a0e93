# SPDX-License-Identifier: Apache-2.0
"""`medrecon bench compare A B`: what moved between two folders of results by more than their spread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.bench.suite.outputs import LAYOUTS
from medrecon.errors import InputError
from medrecon.types.storage import read_json

SINGLE = 0.05  # of the greater value: what counts as moved where one seed knows no spread


@dataclass(frozen=True, slots=True)
class Move:
    """Attributes:
    where: table, sequence and row, in words.
    figure: name.
    before, after: means.
    """

    where: str
    figure: str
    before: float
    after: float


def compare(first: Path, second: Path) -> tuple[list[Move], list[str]]:
    """What moved, and rows that only one of the two has.

    A figure moved when its means differ by more than twice the standard error of their difference over seeds; where
    one of them has a single seed, by more than 5 % of the greater.

    Raises:
        InputError: the folders have no table in common, or one of another schema.
    """
    moves, alone = [], []
    names = [n for n in LAYOUTS if (first / f"{n}.json").is_file() and (second / f"{n}.json").is_file()]
    if not names:
        raise InputError(f"{first} and {second} have no results in common", "folders of `medrecon bench table1 --out`")
    for name in names:
        a, b = (_rows(folder / f"{name}.json", name) for folder in (first, second))
        alone += [f"{name}: {k} only in {folder}" for k in a.keys() ^ b.keys()
                  for folder in [first if k in a else second]]  # fmt: skip
        for key in (k for k in a if k in b):
            for column in LAYOUTS[name].columns:
                x, y = a[key].get(column.name), b[key].get(column.name)
                if (x is None) != (y is None):
                    values = [float("nan") if v is None else v["mean"] for v in (x, y)]
                    moves.append(Move(f"{name}: {key}", column.name, *values))
                elif x is not None and _moved(x, y):
                    moves.append(Move(f"{name}: {key}", column.name, x["mean"], y["mean"]))
    return moves, sorted(alone)


def _rows(path: Path, name: str) -> dict[str, dict[str, Any]]:
    results = read_json(path)
    if results.get("schema") != 1:
        raise InputError(f"{path} has schema {results.get('schema')!r}, this version reads 1", "measure it anew")
    return {", ".join(str(r[k]) for k in ("sequence", *LAYOUTS[name].keys)): r for r in results["rows"]}


def _moved(x: dict[str, Any], y: dict[str, Any]) -> bool:
    gap = abs(x["mean"] - y["mean"])
    if x["std"] is None or y["std"] is None:
        return gap > SINGLE * max(abs(x["mean"]), abs(y["mean"]))
    return gap > 2 * np.sqrt(x["std"] ** 2 / x["n"] + y["std"] ** 2 / y["n"])

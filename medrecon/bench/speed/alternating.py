# SPDX-License-Identifier: Apache-2.0
"""Timing implementations of one thing in turns, so that other work on the machine meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Milliseconds for one input.

    Attributes:
        ms: median over the rounds of the mean over the inputs.
        spread: interquartile range of the same, relative to ``ms``.
        ratio: ``ms`` divided by that of the first implementation.
        best_ms: mean over the inputs of the least over the rounds: what it takes when nothing else runs.
        best_ratio: ``best_ms`` divided by that of the first implementation.
    """

    ms: float
    spread: float
    ratio: float
    best_ms: float
    best_ratio: float

    HEAD = f"{'ms':>9}{'spread':>8}{'ratio':>7}{'best ms':>9}{'ratio':>7}"

    def __str__(self) -> str:
        return f"{self.ms:>9.1f}{self.spread:>8.0%}{self.ratio:>7.2f}{self.best_ms:>9.1f}{self.best_ratio:>7.2f}"


def alternate(
    functions: dict[str, Callable[[Any], Any]], inputs: Sequence, repeats: int
) -> tuple[dict[str, Timing], dict[str, list]]:
    """Calls every function on every input, ``repeats`` + 1 rounds long; the first round warms up. What a function has
    as ``prepare`` is called before it, untimed.

    Returns:
        times and the results of the last round, by name. Ratios are to the first function.
    """
    times = np.zeros((len(functions), repeats + 1, len(inputs)))
    found: dict[str, list] = {}
    for turn in range(repeats + 1):
        for i, (name, function) in enumerate(functions.items()):
            found[name] = []
            for j, x in enumerate(inputs):
                if hasattr(function, "prepare"):
                    function.prepare()
                begun = time.perf_counter()
                found[name].append(function(x))
                times[i, turn, j] = 1e3 * (time.perf_counter() - begun)
    rounds = times[:, 1:].mean(2)
    ms, best = np.median(rounds, 1), times[:, 1:].min(1).mean(1)
    spread = np.diff(np.quantile(rounds, (0.25, 0.75), axis=1), axis=0)[0] / ms
    rows = np.stack([ms, spread, ms / ms[0], best, best / best[0]], 1)
    return {name: Timing(*row) for name, row in zip(functions, rows.tolist())}, found

# SPDX-License-Identifier: Apache-2.0
"""What is measured: one piece of work, who can do it, and the least that any of them has to compute and to move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Attributes:
        op, what, size: in words, such as "composite", "forward", "2056 x 33".
        flops: additions and multiplications of one call, by formula; FUNCTION of them for an elementary function.
        bytes: what one call has to read and to write at least: each input and each result once.
        makers: for each implementation what makes its call ("medrecon" and "eager" first), outside the time measured;
            or the reason why there is none. A maker that raises is left out with its error as the reason.
        same: largest difference of the first two implementations' results, relative to the largest result.
    """

    op: str
    what: str
    size: str
    flops: float
    bytes: float
    makers: dict[str, Callable[[], Callable[[], Any]] | str]
    same: Callable[[], float]

    @property
    def name(self) -> str:
        return name_of(self.op, self.what, self.size)


def name_of(op: str, what: str, size: str) -> str:
    """A row in words, which --only is looked for in."""
    return f"{op} {what} {size}"


# An elementary function (sin, exp, log, sqrt) as additions and multiplications: range reduction and a polynomial.
FUNCTION = 16


def compiled(function: Callable, call: Callable[[Callable], Callable[[], Any]]) -> Callable[[], Callable[[], Any]]:
    """Makes the call of ``function`` under torch.compile; compiling is done by the maker."""

    def make() -> Callable[[], Any]:
        torch._dynamo.reset()
        ready = call(torch.compile(function, dynamic=False))
        ready()
        return ready

    return make


def largest_difference(found, expected) -> float:
    """Of tuples of tensors, relative to the largest value expected (at least 1)."""
    return max(
        (
            (a - b).abs().max().item() / max(1.0, b.abs().max().item())
            for a, b in zip(found, expected, strict=True)
            if b.numel()
        ),
        default=0.0,
    )

# SPDX-License-Identifier: Apache-2.0
"""Limits of a network's size, checked wherever a size comes from. Standard library only."""

from __future__ import annotations

from reprlib import repr as shortened

LARGEST_WIDTH = 4096
# What pydantic reads from a plain dataclass: sizes in a file may hold nothing that the network does not know.
STRICT = {"extra": "forbid"}


def check_size(name: str, value: int | tuple[int, ...], largest: int = LARGEST_WIDTH) -> None:
    """A size, or each of several, is a whole number from 1 to ``largest``.

    Raises:
        ValueError: names the field, for example "encoder_widths.3".
    """
    if isinstance(value, tuple):
        for i, one in enumerate(value):
            check_size(f"{name}.{i}", one, largest)
    elif not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise ValueError(f"{name} is {shortened(value)}, expected a whole number from 1 to {largest}")

# SPDX-License-Identifier: Apache-2.0
"""How long work tells the user where it is. Stages call it; the pipeline decides what is shown."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Given to every stage. All calls are cheap enough for inner loops of a millisecond and more."""

    def begin(self, total: int | None, unit: str) -> None:
        """A piece of work of ``total`` units starts (None: unknown)."""

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """``n`` more units are done; figures (psnr_db=24.1) are shown beside the bar."""

    def say(self, text: str) -> None:
        """One line worth keeping: a choice that was made, a fallback, a warning. No identifiers."""


class Quiet:
    """Progress that shows nothing but remembers what was said (for tests and library use)."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, total: int | None, unit: str) -> None:
        pass

    def advance(self, n: int = 1, **figures: float | str) -> None:
        pass

    def say(self, text: str) -> None:
        self.said.append(text)

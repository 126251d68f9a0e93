# SPDX-License-Identifier: Apache-2.0
"""How a run inside a benchmark is heard."""

from __future__ import annotations

from medrecon.pipeline.display import Display
from medrecon.progress import Progress


class Relay(Display):
    """The display of an inner run: what it says goes on, its bars do not."""

    def __init__(self, progress: Progress, who: str):
        super().__init__(quiet=True)
        self._progress, self._who = progress, who

    def say(self, text: str) -> None:
        self._progress.say(f"{self._who}: {text}")

    def headline(self, text: str) -> None:
        self.say(text.strip())

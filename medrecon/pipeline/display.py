# SPDX-License-Identifier: Apache-2.0
"""What a run shows: a live bar on a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import IO, Any


def duration(seconds: float) -> str:
    """75.2 -> "1 min 15 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {s:02d} s" if minutes else f"{s} s"


class Display:
    """Progress of a run (implements ``medrecon.progress.Progress``).

    Args:
        quiet: say only warnings and the end.
        events: stream for one JSON object per line, or None.
        stream: where people read; default stderr, so that stdout stays free for results.
    """

    def __init__(self, quiet: bool = False, events: IO[str] | None = None, stream: IO[str] | None = None):
        self.quiet, self.events = quiet, events
        self.stream = stream or sys.stderr
        self.live = not quiet and self.stream.isatty()
        self.stage, self.total, self.done, self.unit = "", None, 0, ""
        self.begun = self._shown = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self.said: list[tuple[str, str]] = []

    # -- Progress --------------------------------------------------------------------------------------------------
    def begin(self, total: int | None, unit: str) -> None:
        self.total, self.done, self.unit = total, 0, unit
        self.begun = self._shown = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, total=total, completed=0, unit=unit, figures="")

    def advance(self, n: int = 1, **figures: float | str) -> None:
        self.done += n
        now = time.monotonic()
        if self._bar is None and now - self._shown < 10.0 and not (self.events and now - self._shown > 1.0):
            return
        shown = "  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, figures=shown)
            if now - self._shown < 1.0:
                return
        elif not self.quiet and now - self._shown >= 10.0:
            left = ""
            if self.total and self.done:
                left = f", {duration((now - self.begun) / self.done * (self.total - self.done))} left"
            of = f"/{self.total}" if self.total else ""
            self._line(f"  {self.stage}: {self.done}{of} {self.unit}{left}  {shown}".rstrip())
        self._shown = now
        self.event("progress", done=self.done, total=self.total, unit=self.unit, **figures)

    def say(self, text: str) -> None:
        self.said.append((self.stage, text))
        if not self.quiet:
            self._line(f"  {text}")
        self.event("message", text=text)

    # -- the pipeline's own ----------------------------------------------------------------------------------------
    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self.stream, flush=True)

    def headline(self, text: str) -> None:
        if not self.quiet:
            self._line(text)

    def event(self, kind: str, **facts: Any) -> None:
        if self.events:
            line = {"event": kind, "stage": self.stage, "time": round(time.time(), 3), **facts}
            print(json.dumps(line, default=str), file=self.events, flush=True)

    @contextmanager
    def during(self, stage: str, title: str):
        """Shows the bar of one stage."""
        self.stage = stage
        self.begin(None, "")
        self.event("stage_started")
        if not self.live:
            self.headline(f"{title}")
            try:
                yield
            finally:
                self.stage = ""
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
        )  # fmt: skip
        with Progress(*columns, console=Console(file=self.stream), transient=True) as bar:
            self._bar, self._task = bar, bar.add_task(title, total=None, unit="", figures="")
            try:
                yield
            finally:
                self._bar, self.stage = None, ""

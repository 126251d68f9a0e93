# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C that waits for the end of a step, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from types import TracebackType

from medrecon.radiance.team import Team


class DeferredInterrupt:
    """Within the block, SIGINT only raises a flag; ``check`` turns it into KeyboardInterrupt between steps. So does
    SIGTERM where it means the same (its handler is that of SIGINT).

    Off the main thread nothing is changed: Python delivers no signals there.
    """

    def __init__(self, team: Team) -> None:
        self._team, self._asked = team, False
        self._before = {}

    def __enter__(self) -> "DeferredInterrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if number == signal.SIGINT or signal.getsignal(number) is signal.default_int_handler:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, *_: object) -> None:
        # The second Ctrl-C does not wait. (What starts a team passes on the signals that a terminal has sent already.)
        if self._asked and self._team.size == 1:
            raise KeyboardInterrupt
        self._asked = True

    def check(self) -> None:
        """Raises it in all processes of the team after the same step."""
        if self._team.sum(float(self._asked))[0]:
            raise KeyboardInterrupt

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

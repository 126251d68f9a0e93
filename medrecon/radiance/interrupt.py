# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C that waits for the end of a step, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from types import TracebackType


class DeferredInterrupt:
    """Within the block, SIGINT only raises a flag; ``check`` turns it into KeyboardInterrupt between steps.

    Off the main thread nothing is changed: Python delivers no signals there.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before = None

    def __enter__(self) -> "DeferredInterrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_: object) -> None:
        if self._asked:  # the second Ctrl-C does not wait
            raise KeyboardInterrupt
        self._asked = True

    def check(self) -> None:
        if self._asked:
            raise KeyboardInterrupt

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

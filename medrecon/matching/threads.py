# SPDX-License-Identifier: Apache-2.0
"""Keeps the matrix libraries from starting threads inside our own: on few cores they only wait for each other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


def single_blas_thread() -> AbstractContextManager:
    """Within this context numpy's matrix products use the calling thread only (when threadpoolctl is installed)."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(limits=1, user_api="blas")


@contextmanager
def shared_torch_threads(workers: int) -> Iterator[Callable[[], None]]:
    """Yields what each of some worker threads calls first: torch then gives it its share of the threads it has here.

    A network on two threads of a busy machine waits at every layer for the slower one: pairs side by side do not.
    """
    torch = sys.modules.get("torch")  # where nothing has loaded it, nothing computes with it
    if torch is None:
        yield lambda: None
        return
    before = torch.get_num_threads()
    try:
        yield lambda: torch.set_num_threads(max(1, before // workers))
    finally:
        torch.set_num_threads(before)  # a worker's figure is also that of threads that start later

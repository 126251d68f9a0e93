# SPDX-License-Identifier: Apache-2.0
"""Keeps the matrix library from starting threads inside our own: on few cores they only wait for each other."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


def single_blas_thread() -> AbstractContextManager:
    """Within this context numpy's matrix products use the calling thread only (when threadpoolctl is installed)."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(limits=1, user_api="blas")

# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML file per run: what went in, what came out, how far to trust it."""

from __future__ import annotations


def __getattr__(name: str):
    if name == "write":
        from medrecon.report.document import write

        return write
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

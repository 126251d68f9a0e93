# SPDX-License-Identifier: Apache-2.0
"""How a conformance kit says that a contract is broken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from medrecon.errors import MedreconError

DOCS = "docs/plugins/conformance.md"


def require(ok: Any, kind: str, contract: str, found: str = "") -> None:
    """Raise an AssertionError that states the contract, what was found, and where it is documented."""
    if not ok:
        text = f"contract of every {kind}: {contract}"
        raise AssertionError(f"{text}\n  found: {found or 'otherwise'}\n  see {DOCS}#{kind}")


def require_valid(validate: Callable[[], Any], kind: str, contract: str) -> None:
    """Turn a type's own ``validate`` into a conformance failure."""
    try:
        validate()
    except (MedreconError, AttributeError, TypeError, ValueError) as e:
        cause = e.cause if isinstance(e, MedreconError) else f"{type(e).__name__}: {e}"
        require(False, kind, contract, cause)


def same(a: Any, b: Any) -> bool:
    """Bitwise equality of arrays, dataclasses, mappings and plain values."""
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)) and type(a) is type(b):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)

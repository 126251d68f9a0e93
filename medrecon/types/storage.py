# SPDX-License-Identifier: Apache-2.0
"""How types reach the disk: npz for arrays, JSON for the rest, each written to a temporary name and renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.errors import InputError


def write_bytes_atomic(path: Path, *parts: bytes | memoryview) -> None:
    """Write all of ``parts``, one after the other, or nothing; an existing file stays whole until the rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as f:
            for part in parts:
                f.write(part)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, data: Any) -> None:
    """Strict JSON (no NaN), atomically."""
    write_bytes_atomic(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read as JSON: {e}", "rerun the stage with --force") from e


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Plain arrays only (no pickles), atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.partial.npz")
    try:
        np.savez(temporary, **arrays)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as z:
            return {k: z[k] for k in z.files}
    except Exception as e:  # zipfile, ValueError, OSError: all mean the same to the user
        raise InputError(f"{path} cannot be read as npz arrays: {e}", "rerun the stage with --force") from e

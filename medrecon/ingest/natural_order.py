# SPDX-License-Identifier: Apache-2.0
"""The order in which people read file names: img2 before img10."""

from __future__ import annotations

import re
from pathlib import Path


def natural_key(path: Path) -> list:
    """Sort key by which img2 comes before img10."""
    parts = [re.split(r"(\d+)", part.casefold()) for part in Path(path).parts]
    return [[(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in part] for part in parts]

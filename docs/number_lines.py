# SPDX-License-Identifier: Apache-2.0
"""Keeps the line numbers of paper.md: `python docs/number_lines.py` rewrites them, `--check` only compares.

A reference reads [`path:LINE`](../path#LLINE) (`symbol`): LINE is the first line of path on which symbol is defined: a
class, function or variable, Class.method, or a function or struct of C++.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("paper.md")
REFERENCE = re.compile(r"\[`([\w./-]+):(\d+)`\]\(\.\./[\w./-]+#L\d+\) \(`([\w.]+)`\)")


def line_of(path: str, symbol: str) -> int:
    """Line, from 1, on which ``symbol`` ("name" or "Class.name") is defined in ``path``.

    Raises:
        SystemExit: there is no such definition.
    """
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    at = 0
    for name in symbol.split("."):
        python = re.compile(rf"\s*(?:class|def) {name}\b|{name}\s*[:=]")
        cpp = re.compile(rf"\s*(?:MR_HD\s+)?(?:inline\s+|static\s+)*[\w:<>]+\s+{name}\(|\s*(?:struct|class) {name}\b")
        found = [i for i in range(at, len(lines)) if (python if path.endswith(".py") else cpp).match(lines[i])]
        if not found:
            raise SystemExit(f"paper.md names {symbol} in {path}, which is not defined there")
        at = found[0]
    return at + 1


def numbered(text: str) -> str:
    """The page with every line number as it is now."""

    def renew(match: re.Match[str]) -> str:
        path, _, symbol = match.groups()
        line = line_of(path, symbol)
        return f"[`{path}:{line}`](../{path}#L{line}) (`{symbol}`)"

    return REFERENCE.sub(renew, text)


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    after = numbered(before)
    if "--check" in sys.argv[1:]:
        sys.exit("docs/paper.md: lines have moved; run python docs/number_lines.py" if before != after else 0)
    PAGE.write_text(after, encoding="utf-8")

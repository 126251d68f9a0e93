# SPDX-License-Identifier: Apache-2.0
"""docs/paper.md points at the lines that implement each equation."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("number_lines", ROOT / "docs/number_lines.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lines_are_those_of_the_definitions(script):
    page = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    assert script.numbered(page) == page, "run python docs/number_lines.py"
    found = script.REFERENCE.findall(page)
    assert len(found) >= 18
    for path, line, symbol in found:
        text = (ROOT / path).read_text(encoding="utf-8").splitlines()[int(line) - 1]
        assert re.search(rf"\b{symbol.split('.')[-1]}\b", text), (path, line, text)


def test_a_name_that_is_gone_stops_the_script(script):
    with pytest.raises(SystemExit, match="not defined there"):
        script.line_of("medrecon/radiance/mlp.py", "FieldMlp.no_such_thing")

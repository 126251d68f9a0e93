# SPDX-License-Identifier: Apache-2.0
"""A copy of the ops' sources to build from."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_package(tree: Path) -> None:
    """errors.py, ops/ and csrc/ into ``tree``, without built files."""
    package = tree / "medrecon"
    package.mkdir(parents=True)
    shutil.copy(ROOT / "medrecon" / "errors.py", package)
    shutil.copytree(ROOT / "medrecon" / "ops", package / "ops", ignore=shutil.ignore_patterns("_C*", "__pycache__"))
    shutil.copytree(ROOT / "csrc", tree / "csrc")


def without_optimiser(tree: Path) -> None:
    """The copy compiles with -O0: building is tested there, not speed, and the optimiser is most of its time."""
    recipe = tree / "medrecon" / "ops" / "recipe.py"
    text = recipe.read_text()
    assert text.count('["-O3"') == 2  # of the C++ compiler and of nvcc
    recipe.write_text(text.replace('["-O3"', '["-O0"'))

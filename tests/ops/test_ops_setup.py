# SPDX-License-Identifier: Apache-2.0
"""setup.py on a copy of the tree: what it builds, what it ships, and that a missing compiler never stops an install."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medrecon.ops import recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setup(tmp_path):
    """Copies what building needs; returns a function that runs a command of setup.py."""
    tree = tmp_path / "tree"
    (tree / "medrecon").mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "medrecon/__init__.py", "medrecon/errors.py"):
        shutil.copy(ROOT / name, tree / name)
    for name in ("README.md", "LICENSE", "NOTICE"):
        (tree / name).write_text("")
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    shutil.copytree(ROOT / "medrecon/ops", tree / "medrecon/ops", ignore=shutil.ignore_patterns("_C*", "__pycache__"))

    def run(*command, **environment):
        inherited = {k: v for k, v in os.environ.items() if k not in ("CXX", "MEDRECON_BUILD", "MEDRECON_OPS")}
        return subprocess.run(
            [sys.executable, "setup.py", *command],
            cwd=tree,
            env=inherited | environment,
            capture_output=True,
            text=True,
        )

    run.tree = tree
    return run


def test_the_package_carries_its_sources(setup):
    result = setup("build_py", "--build-lib", "out", MEDRECON_BUILD="none")
    assert result.returncode == 0, result.stderr
    shipped = setup.tree / "out" / "medrecon" / "ops" / "_csrc"
    assert recipe.source_hash(shipped) == recipe.source_hash(ROOT / "csrc")


def test_without_a_compiler_auto_installs_anyway_and_cpu_does_not(setup):
    auto = setup("build", CXX="/nowhere/c++")
    assert auto.returncode == 0
    lines = [line for line in auto.stderr.splitlines() if line.startswith("medrecon:")]
    assert lines == [
        "medrecon: kernels not built, there is no C++ compiler; the program will use plain torch, which is slower"
    ]
    assert setup("build", CXX="/nowhere/c++", MEDRECON_BUILD="cpu").returncode != 0


def test_a_compiler_that_fails_does_not_stop_an_install(setup):
    result = setup("build", CXX="/bin/false")
    assert result.returncode == 0 and "medrecon: kernels not built (" in result.stderr
    assert not list(setup.tree.rglob("_C.*"))


def test_an_unknown_mode_is_refused(setup):
    result = setup("build", MEDRECON_BUILD="gpu")
    assert result.returncode != 0 and "use auto, cpu, cuda or none" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(recipe.compiler() is None, reason="no C++ compiler")
def test_the_prebuilt_kernels_are_used_without_a_compiler(setup, tmp_path):
    result = setup("build_ext", "--inplace", MEDRECON_BUILD="cpu")
    assert result.returncode == 0, result.stderr
    code = "import json, medrecon.ops as o; b = o.backend(); print(json.dumps([b.name, b.build_info, o.__file__]))"
    environment = os.environ | {"PYTHONPATH": str(setup.tree), "CXX": "/nowhere/c++", "MEDRECON_HOME": str(tmp_path)}
    environment.pop("MEDRECON_OPS", None)
    used = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    name, info, where = json.loads(used.stdout)
    assert name == "prebuilt" and where.startswith(str(setup.tree))
    assert info["source_hash"] == recipe.source_hash(ROOT / "csrc")

# SPDX-License-Identifier: Apache-2.0
"""setup.py on a copy of the tree: what it builds, what it ships, and that a missing compiler never stops an install."""

import json
import mmap
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from source_copy import ROOT, copy_package, without_optimiser

from medrecon.ops import recipe


@pytest.fixture
def setup(tmp_path):
    """Copies what building needs; returns a function that runs a command of setup.py, or with -m one of a module."""
    tree = tmp_path / "tree"
    copy_package(tree)
    for name in ("setup.py", "pyproject.toml", "medrecon/__init__.py"):
        shutil.copy(ROOT / name, tree / name)
    for name in ("README.md", "LICENSE", "NOTICE"):
        (tree / name).write_text("")

    def run(*command, **environment):
        inherited = {k: v for k, v in os.environ.items() if k not in ("CXX", "MEDRECON_BUILD", "MEDRECON_OPS")}
        what = command if command[0] == "-m" else ("setup.py", *command)
        return subprocess.run(
            [sys.executable, *what], cwd=tree, env=inherited | environment, capture_output=True, text=True
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


@pytest.mark.skipif(recipe.compiler() is None or sys.platform == "win32", reason="no C++ compiler like GCC")
def test_a_library_in_use_is_replaced_whole(setup):
    """What is mapped stays as it was, and whoever looks finds the old file or the new one, never none or half of one."""
    kernels, ops = setup.tree / "csrc" / "bind.cpp", setup.tree / "medrecon" / "ops"
    text = (ops / "recipe.py").read_text()
    begin, end = text.index("CPP_SOURCES = ("), text.index("CUDA_SOURCES = (")
    (ops / "recipe.py").write_text(text[:begin] + 'CPP_SOURCES = ("bind.cpp",)\n' + text[end:])
    source = "extern int kernels;\nint kernels = {0};\nextern char data[];\nchar data[32 << 20] = {{{0}}};\n"

    def build(version: int) -> Path:
        kernels.write_text(source.format(version))
        result = setup("build_ext", "--inplace", MEDRECON_BUILD="cpu")
        assert result.returncode == 0, result.stdout + result.stderr
        (library,) = [p for p in ops.glob("_C.*") if p.suffix != ".json"]
        return library

    library = build(1)
    before, inode = library.read_bytes(), library.stat().st_ino
    seen, done = set(), threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                seen.add(library.stat().st_size)
            except FileNotFoundError:
                seen.add(None)

    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        watcher = threading.Thread(target=look)
        watcher.start()
        assert build(2) == library
        done.set()
        watcher.join()
        assert mapped[:] == before
    assert library.stat().st_ino != inode and library.read_bytes() != before
    assert seen <= {len(before), library.stat().st_size}
    assert not list(ops.glob("*.part"))
    assert json.loads((ops / "_C.json").read_text())["source_hash"]


@pytest.mark.slow
@pytest.mark.skipif(recipe.compiler() is None, reason="no C++ compiler")
def test_the_wheel_works_elsewhere_without_compiler_and_ninja(setup, tmp_path):
    without_optimiser(setup.tree)
    command = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), ".")
    built = setup(*command, MEDRECON_BUILD="cpu")
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("medrecon-*.whl")
    assert not wheel.name.endswith("none-any.whl")  # it is of this platform

    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:  # as pip would with --no-deps --target
        archive.extractall(site)
    shutil.rmtree(setup.tree)
    code = """
import json, torch, medrecon.ops as ops
value = ops.positional_encoding(torch.full((2, 3), 0.5), 0, 1)[0, 0].item()
info = ops.backend()
print(json.dumps([info.name, info.build_info, value]))
"""
    environment = {
        "PYTHONPATH": str(site),
        "PATH": str(elsewhere),
        "MEDRECON_HOME": str(elsewhere),
        "HOME": str(elsewhere),
    }
    used = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    name, info, value = json.loads(used.stdout)
    assert name == "prebuilt" and info["file"].startswith(str(site))
    assert value == pytest.approx(0.479425538604203, abs=1e-7)
    assert not list(elsewhere.iterdir())  # nothing was built on first use

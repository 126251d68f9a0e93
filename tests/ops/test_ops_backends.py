# SPDX-License-Identifier: Apache-2.0
"""The choice of backend, in fresh processes on a bare copy of the package: only errors.py, ops/ and csrc/."""

import json
import os
import shutil
import stat
import subprocess
import sys

import pytest
import torch
from source_copy import ROOT, copy_package, without_optimiser

from medrecon.ops import recipe, selftest

REPORT = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
import medrecon.ops as ops
assert "torch" not in sys.modules, "importing medrecon.ops must not load torch"
import torch
x = torch.full((2, 3), 0.5)
value = ops.positional_encoding(x, 0, 1)[0, 0].item()
info = ops.backend()
foreign = [m for m in ("cv2", "pydantic", "pycolmap", "scipy", "yaml", "pluggy") if m in sys.modules]
print(json.dumps({"name": info.name, "reason": info.reason, "value": value, "foreign": foreign}))
"""


@pytest.fixture
def bare(tmp_path):
    """A copy of what the ops need, without built files; returns a function that runs Python in it."""
    copy_package(tmp_path / "copy")
    (tmp_path / "copy" / "medrecon" / "__init__.py").write_text("")

    def run(code=REPORT, **environment):
        inherited = {k: v for k, v in os.environ.items() if k not in ("MEDRECON_OPS", "CXX")}
        environment = {"MEDRECON_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path / "copy"), **environment}
        return subprocess.run(
            [sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True, cwd=tmp_path
        )

    run.folder = tmp_path / "copy"
    run.home = tmp_path / "home"
    return run


def _report(result):
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_reference_can_be_asked_for_and_needs_only_torch_and_numpy(bare):
    result = bare(MEDRECON_OPS="reference")
    report = _report(result)
    assert report["name"] == "reference" and report["reason"] == "MEDRECON_OPS=reference"
    assert report["value"] == pytest.approx(0.479425538604203, abs=1e-7)
    assert report["foreign"] == []
    assert result.stderr.count("ops backend: reference") == 1  # said once, although asked twice


def test_without_a_compiler_the_reference_serves_and_says_why(bare):
    result = bare(CXX="/nowhere/c++")
    report = _report(result)
    assert report["name"] == "reference" and report["value"] == pytest.approx(0.4794255, abs=1e-6)
    assert "no C++ compiler (/nowhere/c++" in report["reason"] and "not built at installation" in report["reason"]
    assert "ops backend: reference" in result.stderr


def test_a_build_that_failed_is_remembered_and_retried_on_request(bare, tmp_path):
    calls = tmp_path / "calls"
    fake = tmp_path / "fake-c++"
    fake.write_text(f'#!/bin/sh\necho called >> "{calls}"\necho "fatal error: cannot make sense of it" >&2\nexit 1\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)

    first = _report(bare(CXX=str(fake)))
    assert first["name"] == "reference" and "the build failed" in first["reason"]
    tried = calls.read_text().count("called")
    assert tried >= 1
    second = _report(bare(CXX=str(fake)))
    assert "an earlier build failed" in second["reason"] and calls.read_text().count("called") == tried

    forced = bare(CXX=str(fake), MEDRECON_OPS="jit")
    assert forced.returncode != 0 and "ConfigError: MEDRECON_OPS=jit cannot be had" in forced.stderr
    assert calls.read_text().count("called") > tried


def test_an_unusable_cache_folder_is_a_reason_not_a_crash(bare, tmp_path):
    occupied = tmp_path / "a file"
    occupied.write_text("")
    report = _report(bare(MEDRECON_HOME=str(occupied)))
    assert report["name"] == "reference" and "cannot be used" in report["reason"]


@pytest.mark.parametrize(
    ("note", "why"),
    [
        ({"torch": "1.0.0"}, "built for torch 1.0.0"),
        ({"torch": torch.__version__, "source_hash": "x"}, "older than the"),
    ],
)
def test_a_prebuilt_library_for_another_torch_or_source_is_not_loaded(bare, note, why):
    ops = bare.folder / "medrecon" / "ops"
    (ops / "_C.json").write_text(json.dumps(note))
    (ops / "_C.so").write_text("loading this would fail")
    result = bare(MEDRECON_OPS="prebuilt")
    assert result.returncode != 0 and why in result.stderr and "ImportError" not in result.stderr


def test_a_broken_prebuilt_library_falls_back(bare):
    ops = bare.folder / "medrecon" / "ops"
    hash_text = recipe.source_hash(bare.folder / "csrc")
    (ops / "_C.json").write_text(json.dumps({"torch": torch.__version__, "source_hash": hash_text}))
    (ops / "_C.so").write_text("not a library")
    report = _report(bare(CXX="/nowhere/c++"))
    assert report["name"] == "reference" and "cannot be loaded" in report["reason"]


def test_an_unknown_backend_is_a_config_error(bare):
    result = bare(MEDRECON_OPS="gpu")
    assert result.returncode != 0 and "MEDRECON_OPS=gpu is no ops backend" in result.stderr


def test_installed_sources_are_found_before_those_of_a_tree(bare):
    shutil.copytree(ROOT / "csrc", bare.folder / "medrecon" / "ops" / "_csrc")
    result = bare("from medrecon.ops import recipe; print(recipe.source_folder())")
    assert result.stdout.strip().endswith("medrecon/ops/_csrc")


def test_the_source_hash_sees_every_file(bare):
    before = recipe.source_hash(bare.folder / "csrc")
    assert before == recipe.source_hash(ROOT / "csrc")
    header = bare.folder / "csrc" / "core" / "frustum.h"
    header.write_text(header.read_text() + "\n")
    assert recipe.source_hash(bare.folder / "csrc") != before


def test_every_source_file_is_in_the_recipe():
    listed = set(recipe.sources(cuda=True))
    found = {p.relative_to(ROOT / "csrc").as_posix() for p in (ROOT / "csrc").rglob("*") if p.suffix in (".cpp", ".cu")}
    assert found == listed


def test_the_fallback_equals_the_kernels_through_the_selftest(bare):
    code = "import sys, torch; from medrecon.ops.selftest import main; torch.set_num_threads(1); "
    result = bare(code + "sys.exit(main(['--seed', '5']))", MEDRECON_OPS="reference")
    count = 2 * len(selftest.cases(torch.Generator()))  # float32 and float64
    assert result.returncode == 0, result.stdout
    assert "ops backend: reference" in result.stdout and f"all {count} passed" in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(recipe.compiler() is None, reason="no C++ compiler")
def test_a_first_use_builds_once_also_after_a_killed_build(bare):
    without_optimiser(bare.folder)
    first = bare(MEDRECON_OPS="jit")
    assert _report(first)["reason"].startswith("built now") and "building the C++ kernels" in first.stderr
    (built,) = (bare.home / "ops").iterdir()
    (built / "done.json").unlink()
    (built / "lock").write_text("")  # what a killed build leaves; torch would wait for it for ever
    again = bare(MEDRECON_OPS="jit")
    assert _report(again)["reason"].startswith("built now")
    third = bare(CXX="/nowhere/c++")
    assert _report(third)["reason"].startswith("built on this machine") and "building" not in third.stderr

# SPDX-License-Identifier: Apache-2.0
"""Every .cu file compiles for the GPUs we support wherever nvcc exists, also beside a CPU-only torch."""

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

from medrecon.ops import recipe

CSRC = Path(__file__).resolve().parents[2] / "csrc"
# Bytes that a kernel of each file may spill to memory for want of registers.
MOST_SPILLED = dict.fromkeys(recipe.CUDA_SOURCES, 0)
TORCH_HEADER = re.compile(r"#include\s*[<\"](torch|ATen|c10|pybind11)/")


@pytest.mark.slow
@pytest.mark.skipif(recipe.nvcc() is None, reason="no nvcc")
@pytest.mark.parametrize("name", recipe.CUDA_SOURCES)
def test_cuda_source_compiles_for_each_architecture_without_spills(name, tmp_path):
    archs = ["arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_90,code=compute_90"]
    command = [recipe.nvcc(), "-c", str(CSRC / name), "-o", str(tmp_path / "out.o"), "-std=c++17", *recipe.nvcc_flags()]
    command += ["-Xptxas", "-v", "-Werror", "all-warnings", *(f"-gencode={arch}" for arch in archs)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out.o").stat().st_size > 0
    text = result.stdout + result.stderr
    assert "sm_80" in text and "sm_90" in text
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", text)]
    assert spills and max(spills) <= MOST_SPILLED[name]


@pytest.mark.slow
@pytest.mark.skipif(recipe.nvcc() is None or recipe.compiler() is None, reason="no nvcc or no C++ compiler")
@pytest.mark.parametrize("name", [n for n in recipe.CPP_SOURCES if not n.startswith("cpu/")])
def test_the_cuda_branch_of_the_bindings_compiles_also_beside_a_cpu_torch(name, tmp_path):
    headers = Path(torch.__file__).parent / "include"
    toolkit = _toolkit_headers()
    if not (headers / "c10/cuda/CUDAGuard.h").is_file() or toolkit is None:
        pytest.skip("this torch or this toolkit ships no CUDA headers")
    settings = tmp_path / "c10" / "cuda" / "impl" / "cuda_cmake_macros.h"  # generated only in CUDA builds of torch
    settings.parent.mkdir(parents=True)
    settings.write_text("#pragma once\n")
    folders = [headers, headers / "torch/csrc/api/include", sysconfig.get_paths()["include"], toolkit, tmp_path]
    command = [recipe.compiler(), "-fsyntax-only", "-std=c++20", "-fPIC", "-DTORCH_EXTENSION_NAME=_C"]
    command += [f"-D{macro}={value}" for macro, value in recipe.macros(True)]
    command += [f"-isystem{folder}" for folder in folders] + ["-Wall", "-Werror", str(CSRC / name)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def _toolkit_headers() -> Path | None:
    """Where this nvcc takes cuda_runtime_api.h from."""
    result = subprocess.run([recipe.nvcc(), "--dryrun", "-c", "x.cu"], capture_output=True, text=True)
    for folder in re.findall(r'"-I([^"]+)"', result.stderr):
        if (Path(folder) / "cuda_runtime_api.h").is_file():
            return Path(folder)
    return None


@pytest.mark.parametrize("path", sorted(CSRC.rglob("*.h")) + sorted(CSRC.rglob("*.cu")), ids=lambda p: p.name)
def test_only_the_binding_files_and_the_cpu_thread_helper_see_torch(path):
    if path.name == "parallel.h" or path.parent.name == "operators":
        pytest.skip("parallel.h wraps at::parallel_for, operators are made of tensors")
    assert not TORCH_HEADER.search(path.read_text())


def test_flags_promise_portable_and_exact_arithmetic():
    flags = " ".join(recipe.cxx_flags() + recipe.nvcc_flags())
    assert not re.search(r"march=native|fast.math|Ofast", flags)

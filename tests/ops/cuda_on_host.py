# SPDX-License-Identifier: Apache-2.0
"""Runs CUDA sources on the CPU, for tests where there is no GPU.

A source is compiled as C++ with cuda_on_host.h in place of the CUDA headers: the threads of a block take turns at barriers,
__shared__ is static, the lanes of a warp (four, unless the source needs 32) exchange values, and the blocks of a grid follow one
another.
"""

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medrecon.ops import recipe

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
# Small, so that every loop over threads, lanes, blocks and the grid goes round.
SMALLER = {r"\bkThreads = \d+": "kThreads = 16", r"\bkWarp = \d+": "kWarp = 4", r"\bmost = 1 << 20": "most = 3"}


class HostLibrary(ctypes.CDLL):
    """The functions of a library; each knows where it comes from."""

    def __getattr__(self, name):
        function = super().__getattr__(name)
        function.library = self
        return function


def as_host_code(text: str, changes: dict[str, str]) -> str:
    """The source with launches turned into calls, dynamic shared memory into an array, and ``changes`` (patterns)."""
    launch = r"(\w+(?:<[^<>]*>)?)<<<(.+), (\w+), (\w+), static_cast<cudaStream_t>\(stream\)>>>\((.+)\);"
    text = re.sub(launch, r"on_host::run_grid(\2, \3, \4, [=] { \1(\5); });", text)
    text = re.sub(
        r"extern __shared__ (\w+) (\w+)\[\];", r"\1* \2 = reinterpret_cast<\1*>(on_host::dynamic_shared.data());", text
    )
    for pattern, replacement in changes.items():
        text = re.sub(pattern, replacement, text)
    assert "<<<" not in text.replace("Calls kernel<<<...>>>", "") and "extern __shared__" not in text
    return text


def build(root: Path, sources: list[str], entry: str, changes: dict[str, str] = SMALLER) -> HostLibrary:
    """A library of the .cu files and the headers they need (relative to csrc), with ``entry`` as its C interface."""
    if recipe.compiler() is None or sys.platform != "linux":
        pytest.skip("needs a C++ compiler on Linux")
    for name in ("cuda/launch.h", "core/hd.h", *sources):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(as_host_code((CSRC / name).read_text(), changes))
    (root / "cuda_runtime.h").write_text((HERE / "cuda_on_host.h").read_text())
    includes = "".join(f'#include "{name}"\n' for name in sources if name.endswith(".cu"))
    (root / "all.cpp").write_text(includes + entry)
    command = [recipe.compiler(), "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{root}", "-Wall", "-Werror"]
    result = subprocess.run(
        [*command, str(root / "all.cpp"), "-o", str(root / "all.so")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return HostLibrary(str(root / "all.so"))


def call(function, sizes, inputs, output_sizes, *indices):
    """Calls with outputs full of NaN, each with a sentinel behind it that must still be there.

    In the order of the C function: ``sizes``, arrays of ``indices`` (int64), ``inputs``, outputs. Done once with the threads
    of each block in ascending and once in descending order, which must make no difference.
    """
    sentinel, results = 12345.0, []
    for descending in (False, True):
        outputs = [np.append(np.full(size, np.nan), sentinel).astype(inputs[0].dtype) for size in output_sizes]
        function.library.order_of_threads(ctypes.c_bool(descending))
        function(*map(ctypes.c_int64, sizes), *(ctypes.c_void_p(x.ctypes.data) for x in (*indices, *inputs, *outputs)))
        assert all(x[-1] == sentinel for x in outputs)
        results.append([x[:-1] for x in outputs])
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*results)), "the result depends on the order of the threads"
    return results[0]

# SPDX-License-Identifier: Apache-2.0
"""What the kernels need on this machine, what is there, and how to mend the rest."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from dataclasses import dataclass, replace

import torch

from ..errors import ConfigError
from . import recipe
from .backends import backend

MEND_ABOVE = "mend what is missing above; results are the same meanwhile, but slower"


@dataclass(frozen=True)
class Check:
    """One line of `medrecon doctor`.

    Attributes:
        name: what was looked at.
        ok: nothing to mend.
        detail: what was found.
        fix: what to do about it; empty when ok.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""


def checks() -> list[Check]:
    """Compiler, ninja, Python's headers, nvcc, CUDA, the ops backend; asking for the backend may build the kernels."""
    ops = _backend()
    prebuilt = ops.detail.startswith("prebuilt")
    tools = [_compiler(prebuilt), _ninja(prebuilt), _headers(prebuilt)]
    if ops.fix == MEND_ABOVE and all(tool.ok for tool in tools):  # then the build itself went wrong
        ops = replace(ops, fix="mend what the log named there says, then run once with MEDRECON_OPS=jit to build again")
    return [*tools, _torch(), _nvcc(), ops]


def _compiler(prebuilt: bool) -> Check:
    path = recipe.compiler()
    if path:
        return Check("C++ compiler", True, f"{path}, {_version(path) or 'version unknown'}")
    if prebuilt:
        return Check("C++ compiler", True, "none, and none needed: the kernels are prebuilt")
    return Check("C++ compiler", False, "none found", "install g++ or clang (Debian: apt install g++), or set CXX")


def _ninja(prebuilt: bool) -> Check:
    recipe.with_tools_on_path()
    version = _version("ninja")
    if version:
        return Check("ninja", True, version)
    if prebuilt:
        return Check("ninja", True, "none, and none needed: the kernels are prebuilt")
    return Check("ninja", False, "none found", "pip install ninja")


def _headers(prebuilt: bool) -> Check:
    folder = sysconfig.get_paths()["include"]
    if os.path.isfile(os.path.join(folder, "Python.h")):
        return Check("Python headers", True, folder)
    if prebuilt:
        return Check("Python headers", True, "none, and none needed: the kernels are prebuilt")
    fix = "install Python's development package (Debian: apt install python3-dev)"
    return Check("Python headers", False, f"no Python.h in {folder}", fix)


def _torch() -> Check:
    if torch.cuda.is_available():
        return Check("torch", True, f"{torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}")
    if torch.version.cuda:
        return Check(
            "torch",
            False,
            f"{torch.__version__} is made for CUDA {torch.version.cuda}, but sees no GPU; the CPU is used",
            "if there is a GPU, check its driver with nvidia-smi",
        )
    return Check("torch", True, f"{torch.__version__} for the CPU")


def _nvcc() -> Check:
    path = recipe.nvcc()
    if path:
        return Check("nvcc", True, f"{path}, {_version(path, last=True) or 'version unknown'}")
    if not torch.cuda.is_available():
        return Check("nvcc", True, "none, and none needed without a GPU")
    return Check(
        "nvcc",
        False,
        "none found: ops on the GPU run in plain torch",
        f"install the CUDA {torch.version.cuda} toolkit, or set CUDA_HOME",
    )


def _backend() -> Check:
    try:
        info = backend()
    except ConfigError as error:
        return Check("ops backend", False, error.cause, error.remedy)
    where = "CPU and CUDA" if info.cuda else "CPU"
    kind = f" ({info.build_info['simd']}, {info.build_info['threading']})" if info.build_info else ""
    detail = f"{info.name} on {where}{kind}: {info.reason}"
    if info.name != "reference" or info.reason.startswith("MEDRECON_OPS"):
        return Check("ops backend", True, detail)
    return Check("ops backend", False, detail, MEND_ABOVE)


def _version(program: str, last: bool = False) -> str:
    try:
        text = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = text.strip().splitlines() or [""]
    return lines[-1 if last else 0].strip()

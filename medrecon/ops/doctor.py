# SPDX-License-Identifier: Apache-2.0
"""What the kernels need on this machine, what is there, and how to mend the rest."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

import torch

from ..errors import ConfigError
from . import recipe
from .backends import backend


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
    """Compiler, ninja, nvcc, CUDA and the ops backend; asking for the backend may build the kernels."""
    ops = _backend()
    prebuilt = ops.detail.startswith("prebuilt")
    return [_compiler(prebuilt), _ninja(prebuilt), _torch(), _nvcc(), ops]


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
    detail = f"{info.name} on {where}: {info.reason}"
    if info.name != "reference" or info.reason.startswith("MEDRECON_OPS"):
        return Check("ops backend", True, detail)
    return Check("ops backend", False, detail, "mend what is missing above; results are the same meanwhile, but slower")


def _version(program: str, last: bool = False) -> str:
    try:
        text = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = text.strip().splitlines() or [""]
    return lines[-1 if last else 0].strip()

# SPDX-License-Identifier: Apache-2.0
"""What the kernels are built from and how: shared by setup.py and the just-in-time build. Standard library only."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

CPP_SOURCES = (
    "bind.cpp",
    "cpu/cast_rays.cpp",
    "cpu/composite_simd.cpp",
    "cpu/encoding.cpp",
    "cpu/field.cpp",
    "cpu/field_simd.cpp",
    "cpu/fused_grid.cpp",
    "cpu/fused_grid_simd.cpp",
    "cpu/grid.cpp",
    "cpu/grid_simd.cpp",
    "cpu/isa.cpp",
    "cpu/lazy_adam.cpp",
    "cpu/march.cpp",
    "cpu/resample.cpp",
    "cpu/sinkhorn.cpp",
    "cpu/sinkhorn_simd.cpp",
    "operators/all.cpp",
    "operators/autograd.cpp",
)
CUDA_SOURCES = (
    "cuda/cast_rays.cu",
    "cuda/composite.cu",
    "cuda/encoding.cu",
    "cuda/field.cu",
    "cuda/grid.cu",
    "cuda/march.cu",
    "cuda/resample.cu",
    "cuda/sinkhorn.cu",
)
# Ampere and Hopper, and PTX for what comes after, unless TORCH_CUDA_ARCH_LIST says otherwise.
CUDA_ARCH_LIST = "8.0;9.0+PTX"


def source_folder() -> Path | None:
    """The csrc folder: shipped inside the installed package, or beside it in a source tree; None when there is none."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_csrc", here.parent.parent / "csrc"):
        if all((folder / name).is_file() for name in CPP_SOURCES):
            return folder
    return None


def source_hash(folder: Path) -> str:
    """Identifies the text of all C++ and CUDA files and the flags they are built with."""
    digest = hashlib.sha256(repr((cxx_flags(), nvcc_flags())).encode())
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".h", ".cpp", ".cu"):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def sources(cuda: bool) -> list[str]:
    """Names of the files to compile, relative to the csrc folder."""
    return [*CPP_SOURCES, *(CUDA_SOURCES if cuda else ())]


def cxx_flags() -> list[str]:
    """No -march=native (a wheel runs on other machines), no fast-math; torch adds the C++ standard it needs."""
    if sys.platform == "win32":
        return ["/O2", "/openmp"]
    flags = ["-O3", "-g0", "-fvisibility=hidden"]  # -g0: what is linked is stripped, and Python's own flags say -g
    if sys.platform == "linux":
        # At compile time only: the OpenMP runtime is then torch's own, already loaded, and set_num_threads governs it.
        flags.append("-fopenmp")
    return flags


def nvcc_flags() -> list[str]:
    """No --use_fast_math: it breaks sin(2^15 x)."""
    return ["-O3"]


def macros(cuda: bool) -> list[tuple[str, str]]:
    """Preprocessor definitions (name, value). None depends on the sources: a change rebuilds only what it touches."""
    return [("MEDRECON_WITH_CUDA", "1")] if cuda else []


def compiler() -> str | None:
    """Path of the C++ compiler that torch would call, or None."""
    name = os.environ.get("CXX") or ("cl" if sys.platform == "win32" else "c++")
    return shutil.which(name.split()[0])


def nvcc() -> str | None:
    """Path of the CUDA compiler, or None."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    beside = shutil.which("nvcc", path=os.path.join(home, "bin")) if home else None
    return beside or shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def with_tools_on_path() -> None:
    """Lets torch find the ninja that pip installed beside this Python, also when the environment is not activated."""
    beside_python = str(Path(sys.executable).parent)
    if beside_python not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join(filter(None, [os.environ.get("PATH"), beside_python]))

# SPDX-License-Identifier: Apache-2.0
"""Builds the kernels on first use with ninja and keeps them, and the memory of a failure, in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import json
import logging
import os
import platform
import sys
import time
from pathlib import Path
from types import ModuleType

import torch

from . import recipe

log = logging.getLogger("medrecon.ops")


class BuildUnavailable(Exception):
    """The kernels cannot be built here; the text says why."""


def cache_folder() -> Path:
    """``$MEDRECON_HOME/ops``, else ``$XDG_CACHE_HOME/medrecon/ops``, else ``~/.cache/medrecon/ops``."""
    home = os.environ.get("MEDRECON_HOME")
    if home:
        return Path(home).expanduser() / "ops"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "medrecon" / "ops"


def load(retry: bool = False) -> tuple[ModuleType, str]:
    """Loads the kept build, or builds it.

    Args:
        retry: build again although a former attempt is remembered to have failed.

    Returns:
        The extension module and a sentence about where it came from.

    Raises:
        BuildUnavailable: no sources, no compiler, no ninja, no writable cache, or the build failed.
    """
    csrc = recipe.source_folder()
    if csrc is None:
        raise BuildUnavailable("the C++ sources are not beside the package")
    if torch.version.cuda and torch.cuda.is_available() and recipe.nvcc():
        try:
            return _load(csrc, True, retry)
        except BuildUnavailable as error:
            module, where = _load(csrc, False, retry)
            return module, f"{where}; without CUDA: {error}"
    return _load(csrc, False, retry)


def _load(csrc: Path, cuda: bool, retry: bool) -> tuple[ModuleType, str]:
    hash_text = recipe.source_hash(csrc)
    key = _key(hash_text, cuda)
    folder = cache_folder() / key
    name = f"medrecon_kernels_{key}"
    library = folder / f"{name}{'.pyd' if sys.platform == 'win32' else '.so'}"
    done, failure = folder / "done.json", folder / "failed.json"
    if not done.is_file():
        tool = recipe.compiler()
        if tool is None:
            raise BuildUnavailable(f"no C++ compiler ({os.environ.get('CXX') or 'c++'} is not on the PATH)")
        tools = f"{tool} {recipe.nvcc() if cuda else ''}".strip()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder / "build.lock"):
                if not done.is_file():
                    if not retry:
                        _refuse_known_failure(failure, tools)
                    module = _build(name, csrc, folder, cuda, failure, tools)
                    _write_json(done, {"torch": torch.__version__, "tools": tools})
                    return module, "built now, at first use"
        except OSError as error:
            raise BuildUnavailable(f"the build folder {folder} cannot be used ({error.strerror or error})") from error
    try:
        return _import(name, library), "built on this machine at an earlier first use"
    except (ImportError, OSError) as error:
        done.unlink(missing_ok=True)  # a broken file is built anew next time
        raise BuildUnavailable(f"the kept build {library} cannot be loaded: {error}") from error


def _build(name: str, csrc: Path, folder: Path, cuda: bool, failure: Path, tools: str) -> ModuleType:
    recipe.with_tools_on_path()
    from torch.utils import cpp_extension

    if not cpp_extension.is_ninja_available():
        raise BuildUnavailable("ninja is not installed (pip install ninja)")
    (folder / "lock").unlink(missing_ok=True)  # torch's own lock, left by a killed build, would wait for ever
    defines = [f"-D{macro}={value}" for macro, value in recipe.macros(cuda)]
    log.warning("medrecon: building the %s kernels, once, about half a minute ...", "CUDA" if cuda else "C++")
    begun = time.perf_counter()
    try:
        module = cpp_extension.load(
            name,
            [str(csrc / source) for source in recipe.sources(cuda)],
            extra_cflags=[*recipe.cxx_flags(), *defines],
            extra_cuda_cflags=[*recipe.nvcc_flags(), *defines],
            extra_ldflags=["-s"] if sys.platform == "linux" else [],
            build_directory=str(folder),
            with_cuda=cuda,
            is_python_module=True,
        )
    except Exception as error:  # whatever goes wrong in a compiler must not stop the program: there is a reference
        text = f"{type(error).__name__}: {error}"
        _write_json(failure, {"tools": tools, "error": text[-8000:]})
        raise BuildUnavailable(f"the build failed ({_first_error(text)}); the log is in {failure}") from error
    failure.unlink(missing_ok=True)
    log.warning("medrecon: kernels built in %.0f s and kept in %s", time.perf_counter() - begun, folder)
    return module


def _refuse_known_failure(failure: Path, tools: str) -> None:
    """A build that failed with the same sources, torch and compiler is not tried at every start."""
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(failure.read_text())
        if known.get("tools") == tools:
            raise BuildUnavailable(
                f"an earlier build failed ({_first_error(known.get('error', ''))}); the log is in {failure}, "
                "delete it or set MEDRECON_OPS=jit to try again"
            )


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()]
    return (telling or lines or ["no message"])[-1 if not telling else 0][:200]


def _key(hash_text: str, cuda: bool) -> str:
    """A name that is part of a Python module's: what the build depends on, apart from the compiler."""
    parts = [hash_text, torch.__version__, sys.implementation.cache_tag, platform.system(), platform.machine()]
    if cuda:
        archs = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        parts += [str(torch.version.cuda), os.environ.get("TORCH_CUDA_ARCH_LIST", ""), repr(sorted(archs))]
    return f"{'cuda' if cuda else 'cpu'}_{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def _import(name: str, library: Path) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader(name, str(library))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def _write_json(path: Path, value: dict) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(value, indent=1))
    os.replace(partial, path)


@contextlib.contextmanager
def _locked(path: Path):
    """One build at a time; the system releases the lock when its holder dies."""
    with open(path, "w") as handle:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield

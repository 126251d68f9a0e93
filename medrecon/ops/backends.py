# SPDX-License-Identifier: Apache-2.0
"""Which implementation the ops use: prebuilt kernels, kernels built on first use, or plain torch; chosen once."""

from __future__ import annotations

import importlib
import json
import logging
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch

from ..errors import ConfigError
from . import recipe

log = logging.getLogger("medrecon.ops")
VARIABLE = "MEDRECON_OPS"
NAMES = ("prebuilt", "jit", "reference")

_lock = threading.RLock()
_chosen: BackendInfo | None = None


@dataclass(frozen=True)
class BackendInfo:
    """The choice and why it was made.

    Attributes:
        name: "prebuilt", "jit" or "reference".
        reason: one sentence; for a fallback it says what was missing.
        cuda: the kernels also run on CUDA tensors (otherwise the reference does).
        build_info: compiler, torch, threading, source hash and file of the build; empty for the reference.
    """

    name: str
    reason: str
    cuda: bool = False
    build_info: dict = field(default_factory=dict)


class _Unavailable(Exception):
    pass


def backend() -> BackendInfo:
    """The backend in use. The first call chooses it, which may build the kernels (half a minute, once per machine).

    Raises:
        ConfigError: the environment variable MEDRECON_OPS names no backend, or one that cannot be had here.
    """
    global _chosen
    if _chosen is None:
        with _lock:
            if _chosen is None:
                chosen = _choose(os.environ.get(VARIABLE, ""))
                fallback = chosen.name == "reference" and not os.environ.get(VARIABLE)
                log.log(
                    logging.WARNING if fallback else logging.INFO, "ops backend: %s (%s)", chosen.name, chosen.reason
                )
                _chosen = chosen
    return _chosen


def kernels_for(device_type: str) -> bool:
    """Whether the registered operators, and not the reference, serve tensors on such a device."""
    info = backend()
    return info.name != "reference" and (device_type == "cpu" or (device_type == "cuda" and info.cuda))


# torch.compile takes the answer as a constant of the trace. This is what torch.compiler.assume_constant_result does,
# without its import of the whole compiler (1.6 s).
kernels_for._dynamo_marked_constant = True


def extension() -> ModuleType | None:
    """The loaded extension module (build_info and test probes); None for the reference."""
    return _module if backend().name != "reference" else None


_module: ModuleType | None = None


def _choose(wanted: str) -> BackendInfo:
    if wanted not in ("", *NAMES):
        raise ConfigError(f"{VARIABLE}={wanted} is no ops backend", f"use one of {', '.join(NAMES)}, or unset it")
    if wanted == "reference":
        return BackendInfo("reference", f"{VARIABLE}=reference")
    missing = []
    for name, attempt in (("prebuilt", _load_prebuilt), ("jit", _load_jit)):
        if wanted in ("", name):
            try:
                return _ready(name, *attempt(retry=wanted == "jit"))
            except _Unavailable as error:
                missing.append(f"{name}: {error}")
    if wanted:
        raise ConfigError(
            f"{VARIABLE}={wanted} cannot be had: {'; '.join(missing)}",
            "see `medrecon doctor`, or unset the variable to fall back",
        )
    return BackendInfo("reference", "; ".join(missing))


def _ready(name: str, module: ModuleType, reason: str, source_hash: str) -> BackendInfo:
    from .registration import register_all

    global _module
    register_all()
    _module = module
    info = {**module.build_info(), "source_hash": source_hash, "file": module.__file__}
    return BackendInfo(name, reason, bool(info["cuda"]), info)


def _load_prebuilt(retry: bool) -> tuple[ModuleType, str, str]:
    """Reads the note that setup.py left beside the library before loading it: torch's binary interface changes."""
    note = Path(__file__).with_name("_C.json")
    try:
        built = json.loads(note.read_text())
    except (OSError, ValueError):
        raise _Unavailable("not built at installation") from None
    if _minor(built.get("torch", "")) != _minor(torch.__version__):
        raise _Unavailable(f"built for torch {built.get('torch')}, this is {torch.__version__}")
    csrc = recipe.source_folder()
    if csrc is not None and built.get("source_hash") != recipe.source_hash(csrc):
        raise _Unavailable("older than the sources in csrc")
    try:
        module = importlib.import_module("medrecon.ops._C")
    except (ImportError, OSError) as error:
        raise _Unavailable(f"cannot be loaded ({error})") from error
    return module, f"built at installation for torch {built['torch']}", built.get("source_hash", "")


def _load_jit(retry: bool) -> tuple[ModuleType, str, str]:
    from . import jit

    try:
        return *jit.load(retry), recipe.source_hash(recipe.source_folder())
    except jit.BuildUnavailable as error:
        raise _Unavailable(str(error)) from error


def _minor(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]

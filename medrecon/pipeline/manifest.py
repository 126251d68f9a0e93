# SPDX-License-Identifier: Apache-2.0
"""What a run was made with, so that every number can be traced. No identifiers: inputs stand here as hashes."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import medrecon
from medrecon.config.run_config import RunConfig, is_builtin
from medrecon.pipeline.weights import used

PACKAGES = (
    "torch", "numpy", "opencv-python-headless", "pycolmap", "pluggy", "pydantic", "pydicom", "vtk", "scikit-image",
    "scipy", "mahotas", "nibabel", "lpips", "safetensors",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Installed version by package name; "missing" where it is not there."""

    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "missing"

    return {name: version(name) for name in PACKAGES}


def machine() -> dict[str, Any]:
    """Processor, memory, platform and GPU; no host or user names."""
    cpu = platform.processor() or platform.machine()
    ram = None
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            cpu = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), cpu)
        ram = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError, AttributeError):
        pass
    gpu = None
    try:
        import torch

        gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    except ImportError:
        pass
    return {"cpu": cpu, "cores": os.cpu_count(), "ram_gb": ram, "platform": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(), "gpu": gpu}  # fmt: skip


def without_paths(data: Any, config: RunConfig) -> Any:
    """The configuration with every path replaced by a note: file names may hold patient names."""
    named = {
        key: {
            f
            for f in type(s.options).model_fields
            if isinstance(getattr(s.options, f), Path) and not is_builtin(getattr(s.options, f))
        }
        for key, s in config.sections.items()
    }
    return {
        key: {k: ("(path not recorded)" if k in named.get(key, ()) else v) for k, v in value.items()}
        if isinstance(value, dict) and key in named
        else value
        for key, value in data.items()
    }


def manifest(config: RunConfig, device: str, threads: int, stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Content of manifest.json."""
    from medrecon import ops

    backend = ops.backend()
    sections = [*config.sections.values(), *(s for group in config.lists.values() for s in group)]
    licences = sorted(
        {f"{s.component.kind} {s.component.name}: {s.component.license}" for s in sections if s.component}
    )
    source = next((s for s in stages if s["name"] == "source"), None)
    return {
        "schema": 1,
        "medrecon_version": medrecon.__version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "name": config.options.name,
        "config": without_paths(config.settled().to_dict(), config),
        "seed": config.options.seed,
        "device": device,
        "threads": threads,
        "ops_backend": {"name": backend.name, "reason": backend.reason},
        "versions": package_versions(),
        "machine": machine(),
        "stages": stages,
        "licences": licences,
        "weights": used(config, stages),
        "front_end": config.choice.to_dict() if config.choice else None,
        "input_hash": source["key"] if source else None,
    }

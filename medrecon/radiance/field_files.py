# SPDX-License-Identifier: Apache-2.0
"""Tensors on disk: safetensors beside JSON, never a pickle; written whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from medrecon.errors import InputError
from medrecon.types.storage import read_json, write_bytes_atomic, write_json

if TYPE_CHECKING:
    from medrecon.radiance.renderer import Renderer
    from medrecon.radiance.scene import Scene
    from medrecon.runfolder import RunFolder

SCHEMA = 1


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Atomically."""
    write_bytes_atomic(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))


def read_tensors(path: Path, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file that must hold exactly the names, shapes and types of ``like``, all finite.

    Raises:
        InputError: it does not, is no safetensors file (a pickle, say), or is missing.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as e:
        raise InputError(f"{path} cannot be read as safetensors: {e}", "rerun with --force radiance") from e
    if found.keys() != like.keys():
        odd = sorted(found.keys() ^ like.keys())
        raise InputError(
            f"{path} belongs to another field: tensor {odd[0]!r} is missing or unknown", "rerun with --force radiance"
        )
    for name, tensor in found.items():
        want = like[name]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            raise InputError(
                f"{path}: {name!r} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"the field needs {want.dtype} {tuple(want.shape)}",
                "rerun with --force radiance",
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {name!r} holds NaN or infinity", "rerun with --force radiance")
    return found


def sha256(path: Path) -> str:
    with open(path, "rb") as f:
        digest = hashlib.sha256()
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def save_field(folder: Path, renderer: "Renderer", scene: "Scene", steps: int, seed: int) -> None:
    """Writes field.safetensors, then field.json which vouches for it."""
    write_tensors(folder / "field.safetensors", renderer.state_dict())
    data = {
        "schema": SCHEMA,
        **renderer.describe(),
        "frame_ids": list(scene.train_ids),
        "steps": steps,
        "seed": seed,
        "sha256": sha256(folder / "field.safetensors"),
    }
    write_json(folder / "field.json", data)


def load_field(run: "RunFolder", device: str = "cpu") -> tuple["Renderer", "Scene"]:
    """The trained field of a run, ready to render, and its scene.

    Raises:
        InputError: there is none, or its files are broken.
        ConfigError, PluginError: the renderer it was trained with is not installed.
    """
    import medrecon
    from medrecon.radiance.scene import Scene

    folder = run.stage_dir("radiance")
    data = read_json(folder / "field.json")
    scene = Scene.load(folder / "scene.json")
    try:
        name, options = str(data["name"]), dict(data["options"])
        frame_ids, seed = [int(i) for i in data["frame_ids"]], int(data["seed"])
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']}, this version reads {SCHEMA}")
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(
            f"{folder / 'field.json'} does not describe a field: {e}", "rerun with --force radiance"
        ) from e
    renderer = medrecon.create("renderer", name, **options)
    renderer.setup(scene, frame_ids, seed)
    renderer.load_state_dict(read_tensors(folder / "field.safetensors", renderer.state_dict()))
    return renderer.to(device).eval(), scene

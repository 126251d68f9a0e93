# SPDX-License-Identifier: Apache-2.0
"""Tensors on disk: safetensors beside JSON, never a pickle; written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medrecon.errors import InputError
from medrecon.types.storage import read_json, write_bytes_atomic, write_json

if TYPE_CHECKING:
    from medrecon.radiance.renderer import Renderer
    from medrecon.radiance.scene import Scene
    from medrecon.runfolder import RunFolder

SCHEMA = 1
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Writes a safetensors file, atomically; returns its sha256.

    By hand and not by the library, which would hold all of them twice more in memory: a checkpoint is large and written
    while the training goes on. The format: length of a JSON header, the header, the tensors' bytes one after the other.
    """
    # As the library does: large numbers first, so that all are aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header, end = {}, 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    parts = [len(text).to_bytes(8, "little"), text, *(_bytes(tensor) for _, tensor in ordered)]
    write_bytes_atomic(path, *parts)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())


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
    digest = write_tensors(folder / "field.safetensors", renderer.state_dict())
    data = {
        "schema": SCHEMA,
        **renderer.describe(),
        "frame_ids": list(scene.train_ids),
        "steps": steps,
        "seed": seed,
        "sha256": digest,
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

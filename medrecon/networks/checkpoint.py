# SPDX-License-Identifier: Apache-2.0
"""Network weights on disk, read without trusting them.

Two forms: our own, NAME.safetensors with the tensors beside NAME.json that says what they are, and the PyTorch files
(.pth, .pt) in which others publish theirs, of which tensors alone are read and no code is run.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from medrecon.errors import AssetError
from medrecon.types.storage import write_bytes_atomic, write_json

VERSION = 1
_MAX_JSON_BYTES = 1 << 20
_REMEDY = "fetch or export the weights again, or give another file"


class Checkpoint(NamedTuple):
    """Weights and what is known about them.

    Attributes:
        state_dict: tensors by name, on the CPU; floating point ones are float32 and finite.
        config: size of the network as it was saved; None for a PyTorch file, which does not say.
        provenance: where the weights come from; {} for a PyTorch file.
        license: SPDX expression or words; "" for a PyTorch file.
    """

    state_dict: dict[str, Tensor]
    config: dict[str, Any] | None
    provenance: dict[str, Any]
    license: str


def save_checkpoint(
    path: Path,
    state_dict: dict[str, Tensor],
    format: str,
    config: dict[str, Any],
    license: str,
    provenance: dict[str, Any],
) -> None:
    """Write ``path`` (.safetensors), then the .json beside it that vouches for it.

    Args:
        format: what the tensors are, for example "medrecon-superpoint".
        config: what is needed to build the network again; plain JSON values.

    Raises:
        ValueError: another suffix, or values that are not JSON.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name}: our checkpoints end in .safetensors")
    about = {"format": format, "version": VERSION, "config": config, "license": license, "provenance": provenance}
    json.dumps(about, allow_nan=False)  # refused before anything is written
    write_bytes_atomic(path, save({k: v.detach().cpu().contiguous() for k, v in state_dict.items()}))
    write_json(path.with_suffix(".json"), about)


def load_checkpoint(path: Path, format: str, part: str | None = None) -> Checkpoint:
    """Read a checkpoint of our own (.safetensors) or a PyTorch one (any other suffix).

    Args:
        format: what the .json beside our own must say, for example "medrecon-superpoint".
        part: entry of a PyTorch file that holds the network's tensors; None: it holds nothing else.

    Raises:
        AssetError: missing, truncated, of another format or version, more than plain tensors (nothing is executed),
            or values that are not finite.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        checkpoint = _load_own(path, format)
    else:
        checkpoint = Checkpoint(_load_pytorch(path, part), None, {}, "")
    return checkpoint._replace(state_dict={k: _usable(path, k, v) for k, v in checkpoint.state_dict.items()})


class Network(Protocol):
    """A module that knows its own size, so that its weights can be saved and loaded.

    Attributes:
        format: what the .json beside its weights says, for example "medrecon-superpoint".
        config_class: frozen dataclass of plain values with defaults; raises ValueError for a size that cannot be.
        config: the size it was made with; the only argument of the class.
    """

    format: str
    config_class: type
    config: Any


N = TypeVar("N", bound=Network)


def load_network(path: Path, network_class: type[N]) -> N:
    """The network of a checkpoint, of the size that the checkpoint says (a PyTorch file: the default size), strictly,
    in eval mode on the CPU.

    Raises:
        AssetError: the file is missing, damaged, or belongs to another network.
    """
    checkpoint = load_checkpoint(path, network_class.format)
    try:
        config = TypeAdapter(network_class.config_class).validate_python(checkpoint.config or {})
    except ValidationError as e:
        why = e.errors(include_url=False)[0]
        where = " ".join(["config", ".".join(map(str, why["loc"]))]).strip()
        raise AssetError(
            f"{path}: {where}: {why['msg'].removeprefix('Value error, ')}", "write the checkpoint again"
        ) from e
    with torch.device("meta"):
        network = network_class(config)
    load_into(network, checkpoint.state_dict, path)
    return network.eval()


def save_network(path: Path, network: Network, license: str, provenance: dict[str, Any]) -> None:
    """Write the network as NAME.safetensors and NAME.json, which hold all that ``load_network`` needs."""
    save_checkpoint(path, network.state_dict(), network.format, asdict(network.config), license, provenance)


def load_into(network: nn.Module, state_dict: dict[str, Tensor], path: Path) -> None:
    """Put the tensors into the network, strictly. It may live on the meta device: nothing is allocated before that.

    Raises:
        AssetError: a tensor is missing, unknown or of another shape; names ``path`` and the tensor.
    """
    want = network.state_dict()
    for name in sorted(want.keys() | state_dict.keys()):
        if name not in state_dict:
            raise AssetError(f"{path} is not a checkpoint of this network: it lacks {name!r}", _REMEDY)
        if name not in want:
            raise AssetError(f"{path} is not a checkpoint of this network: it holds {name!r} too", _REMEDY)
        if state_dict[name].shape != want[name].shape:
            found, needed = tuple(state_dict[name].shape), tuple(want[name].shape)
            raise AssetError(f"{path}: {name!r} has the shape {found}, the network needs {needed}", _REMEDY)
    network.load_state_dict(state_dict, assign=True)


def _load_own(path: Path, format: str) -> Checkpoint:
    about_path = path.with_suffix(".json")
    try:
        if about_path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError("it is too long")
        about = json.loads(about_path.read_text(encoding="utf-8"))
        if not isinstance(about, dict) or about.get("format") != format:
            raise ValueError(f'it does not say "format": "{format}"')
        if about.get("version") != VERSION:
            raise ValueError(f"version {about.get('version')!r}, this medrecon reads {VERSION}")
        config, provenance = about.get("config"), about.get("provenance")
        if not isinstance(config, dict) or not isinstance(provenance, dict):
            raise ValueError("config and provenance must be mappings")
    except (OSError, ValueError, RecursionError) as e:
        raise AssetError(f"{about_path}, which describes {path.name}, cannot be used: {e}", _REMEDY) from e
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as e:
        raise AssetError(f"{path} cannot be read as safetensors: {e}", _REMEDY) from e
    return Checkpoint(tensors, config, provenance, str(about.get("license", "")))


def _load_pytorch(path: Path, part: str | None) -> dict[str, Tensor]:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # damaged files raise whatever the parser stumbled over
        why = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise AssetError(f"{path} cannot be read as plain PyTorch weights: {why}", _REMEDY) from e
    if part is not None and isinstance(data, dict):
        data = data.get(part)
    if not isinstance(data, dict) or not data or not all(isinstance(v, Tensor) for v in data.values()):
        raise AssetError(f"{path} does not hold a network's tensors by name", _REMEDY)
    return {str(k): v.detach() for k, v in data.items()}


def _usable(path: Path, name: str, tensor: Tensor) -> Tensor:
    """The tensor dense and, if floating point, float32."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise AssetError(f"{path}: {name!r} is not a plain array of numbers", _REMEDY)
    if not tensor.is_floating_point():
        return tensor
    if not torch.isfinite(tensor).all():
        raise AssetError(f"{path}: {name!r} holds NaN or infinity", _REMEDY)
    return tensor.float()

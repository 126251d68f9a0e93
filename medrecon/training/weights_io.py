# SPDX-License-Identifier: Apache-2.0
"""Trained weights as NAME.safetensors and NAME.json, written and read with torch alone.

The same two files as ``medrecon.networks.checkpoint`` writes and reads, for machines that have neither safetensors nor
pydantic. A safetensors file is the length of a header (8 bytes, little-endian), the header (JSON: dtype, shape and
byte range of each tensor) and the tensors' bytes (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from medrecon.errors import AssetError

VERSION = 1
N = TypeVar("N", bound=torch.nn.Module)
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
_REMEDY = "export the weights again, or give another file"


def write_weights(
    path: Path,
    state_dict: dict[str, Tensor],
    format: str,
    config: dict[str, Any],
    license: str,
    provenance: dict[str, Any],
) -> None:
    """Write ``path`` (.safetensors), then the .json beside it.

    Args:
        format: what the tensors are, for example "medrecon-superpoint".
        config: what is needed to build the network again; plain JSON values.
        provenance: data, settings, steps, figures; plain JSON values.
    """
    about = {"format": format, "version": VERSION, "config": config, "license": license, "provenance": provenance}
    text = json.dumps(about, indent=2, allow_nan=False) + "\n"  # refused before anything is written
    names = {dtype: name for name, dtype in _DTYPES.items()}
    header: dict[str, Any] = {}
    body, offset = [], 0
    for name, tensor in sorted(state_dict.items(), key=lambda item: (-item[1].element_size(), item[0])):
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        body.append(data)
        offset += len(data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # tensors begin at a multiple of their size
    _replace(path, struct.pack("<Q", len(head)) + head + b"".join(body))
    _replace(path.with_suffix(".json"), text.encode())


def read_weights(path: Path, format: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU (floating point as float32) and the configuration of a file of ``write_weights``.

    Raises:
        AssetError: missing, damaged, or of another format.
    """
    path = Path(path)
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if about["format"] != format or about["version"] != VERSION:
            raise ValueError(f"it is {about['format']!r} version {about['version']!r}, not {format!r} {VERSION}")
        config = dict(about["config"])
        raw = path.read_bytes()
        (length,) = struct.unpack_from("<Q", raw)
        header = json.loads(raw[8 : 8 + length])
        header.pop("__metadata__", None)
        tensors = {name: _tensor(raw, 8 + length, entry) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, struct.error) as e:
        raise AssetError(f"{path} and the .json beside it cannot be read as weights: {e}", _REMEDY) from e
    return tensors, config


def load_trained(path: Path, network_class: type[N], device: torch.device) -> tuple[N, str]:
    """The network of a file of ``write_weights``, frozen, in eval mode on the device, and the file's sha256.

    Args:
        network_class: ``SuperpointNetwork`` or ``SuperglueNetwork``.

    Raises:
        AssetError: missing, damaged, or of another network.
    """
    path = Path(path)
    tensors, config = read_weights(path, network_class.format)
    try:
        sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        network = network_class(network_class.config_class(**sizes))
        network.load_state_dict(tensors)
    except (TypeError, ValueError, RuntimeError) as e:
        raise AssetError(f"{path} does not hold this network: {e}", _REMEDY) from e
    network.eval().requires_grad_(False).to(device)
    return network, hashlib.sha256(path.read_bytes()).hexdigest()


def _tensor(raw: bytes, begin: int, entry: dict[str, Any]) -> Tensor:
    dtype, shape = _DTYPES[entry["dtype"]], [int(n) for n in entry["shape"]]
    first, last = entry["data_offsets"]
    if min([0, *shape]) < 0 or last - first != math.prod(shape) * dtype.itemsize or begin + last > len(raw):
        raise ValueError("the file is cut off or its header is wrong")
    if not math.prod(shape):
        return torch.zeros(shape, dtype=dtype)
    tensor = torch.frombuffer(bytearray(raw[begin + first : begin + last]), dtype=dtype).reshape(shape)
    if not tensor.is_floating_point():
        return tensor
    if not torch.isfinite(tensor).all():
        raise ValueError("it holds NaN or infinity")
    return tensor.float()


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)

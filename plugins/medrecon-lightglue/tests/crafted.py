# SPDX-License-Identifier: Apache-2.0
"""Checkpoints made by code, so that everything but the published numbers can be tested where no weights are."""

from __future__ import annotations

from pathlib import Path

import torch
from medrecon_lightglue.aliked_network import AlikedNetwork
from medrecon_lightglue.disk_network import DiskNetwork
from medrecon_lightglue.lightglue_network import LightGlueNetwork


def _mirrored(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Kernels that are their own mirror image: the mirrored picture then has the mirrored keypoints."""
    return {k: (v + v.flip(-1)) / 2 if v.ndim == 4 else v for k, v in state.items()}


def disk(folder: Path) -> Path:
    """A random DISK whose scores are half above 0."""
    torch.manual_seed(3)
    state = _mirrored(DiskNetwork().state_dict())
    return _save(folder / "disk.pth", {"extractor": state})


def aliked(folder: Path) -> Path:
    """A random ALIKED that looks straight ahead: no learned offsets."""
    torch.manual_seed(3)
    state = _mirrored(AlikedNetwork().state_dict())
    straight = {k: torch.zeros_like(v) for k, v in state.items() if ".offset_conv." in k}
    return _save(folder / "aliked.pth", state | straight)


def lightglue(folder: Path, input_dim: int = 128) -> Path:
    """A LightGlue whose layers pass their input on: matches are those of the descriptors, by double softmax."""
    n_layers = 2
    state = LightGlueNetwork(input_dim, dim=128, n_layers=n_layers, heads=2).state_dict()
    state = {k: torch.zeros_like(v) for k, v in state.items()}
    if "input_proj.weight" in state:
        state["input_proj.weight"] = torch.eye(128, input_dim)
    for i in range(n_layers):
        state[f"log_assignment.{i}.final_proj.weight"] = 20 * torch.eye(128)
        state[f"log_assignment.{i}.matchability.bias"] += 9
    return _save(folder / "lightglue.pth", state)


def _save(path: Path, state: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path

# SPDX-License-Identifier: Apache-2.0
"""Weights written without safetensors are read by safetensors and by the product's loader, and the reverse."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from medrecon.errors import AssetError
from medrecon.networks.checkpoint import load_checkpoint, save_checkpoint
from medrecon.training.weights_io import read_weights, write_weights

TENSORS = {
    "b.weight": torch.linspace(-2, 3, 6).reshape(2, 3),
    "half": torch.tensor([0.5, -1.25, 3.0]).half(),
    "count": torch.tensor(7),
    "a.bias": torch.tensor([1.0]),
}


def test_safetensors_and_the_loader_read_what_is_written(tmp_path):
    path = tmp_path / "net.safetensors"
    write_weights(path, TENSORS, "medrecon-test", {"size": 3}, "Apache-2.0", {"steps": 5})
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in TENSORS.items())
    checkpoint = load_checkpoint(path, "medrecon-test")
    assert checkpoint.config == {"size": 3} and checkpoint.provenance == {"steps": 5}
    assert checkpoint.license == "Apache-2.0"


def test_what_the_product_writes_is_read(tmp_path):
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, TENSORS, "medrecon-test", {"size": 3}, "Apache-2.0", {})
    tensors, config = read_weights(path, "medrecon-test")
    assert config == {"size": 3}
    assert all(torch.equal(tensors[k], v.float() if v.is_floating_point() else v) for k, v in TENSORS.items())


@pytest.mark.parametrize("damage", ["cut", "format", "missing", "nan"])
def test_damage_is_an_asset_error(tmp_path, damage):
    path = tmp_path / "net.safetensors"
    tensors = {"x": torch.tensor([1.0, float("nan")])} if damage == "nan" else TENSORS
    write_weights(path, tensors, "medrecon-test", {}, "", {})
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    if damage == "missing":
        path.with_suffix(".json").unlink()
    with pytest.raises(AssetError, match="cannot be read as weights"):
        read_weights(path, "medrecon-other" if damage == "format" else "medrecon-test")

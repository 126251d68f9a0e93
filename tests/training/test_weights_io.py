# SPDX-License-Identifier: Apache-2.0
"""Weights written without safetensors are read by safetensors and by the product's loader, and the reverse."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

from medrecon.errors import AssetError
from medrecon.features.superpoint_network import SuperpointNetwork
from medrecon.matching.superglue_network import SuperglueNetwork
from medrecon.networks.checkpoint import load_checkpoint, load_network, save_checkpoint
from medrecon.testing.networks import small_superglue, small_superpoint
from medrecon.training.weights_io import load_trained, read_weights, write_weights

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


def test_a_trained_network_is_built_as_it_was_saved(tmp_path):
    network = small_superpoint()
    path = tmp_path / "small.safetensors"
    write_weights(path, network.state_dict(), network.format, asdict(network.config), "Apache-2.0", {})
    found, digest = load_trained(path, SuperpointNetwork, torch.device("cpu"))
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not found.training and not any(p.requires_grad for p in found.parameters())
    image = torch.rand(1, 1, 32, 40)
    for mine, expected in zip(found(image), network(image)):
        torch.testing.assert_close(mine, expected)


def superglue_file(tmp_path, **config):
    network = small_superglue()
    path = tmp_path / "glue.safetensors"
    sizes = {k: v for k, v in asdict(network.config).items() if k != "match_threshold"} | config
    write_weights(path, network.state_dict(), network.format, sizes, "Apache-2.0", {})
    return path


@pytest.mark.parametrize(
    "config, threshold", [({}, 0.2), ({"match_threshold": 0.35}, 0.35), ({"match_threshold": 0}, 0)]
)
def test_the_threshold_of_matches_goes_with_the_weights(tmp_path, config, threshold):
    path = superglue_file(tmp_path, **config)
    found, _ = load_trained(path, SuperglueNetwork, torch.device("cpu"))
    assert found.config.match_threshold == load_network(path, SuperglueNetwork).config.match_threshold == threshold


@pytest.mark.parametrize("threshold", [-0.1, 1, "high", None, True, float("nan")])
def test_a_threshold_that_cannot_be(tmp_path, threshold):
    path = superglue_file(tmp_path)
    about = json.loads(path.with_suffix(".json").read_text())
    about["config"]["match_threshold"] = threshold
    path.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(AssetError, match="match_threshold"):
        load_trained(path, SuperglueNetwork, torch.device("cpu"))
    with pytest.raises(AssetError, match="match_threshold"):
        load_network(path, SuperglueNetwork)


@pytest.mark.parametrize("config", [{"head_width": 7}, {"depth": 3}, {"head_width": -1}])
def test_sizes_that_do_not_fit_the_tensors(tmp_path, config):
    network = small_superpoint()
    path = tmp_path / "small.safetensors"
    sizes = asdict(network.config) | config
    write_weights(path, network.state_dict(), network.format, sizes, "Apache-2.0", {})
    with pytest.raises(AssetError, match="small"):
        load_trained(path, SuperpointNetwork, torch.device("cpu"))

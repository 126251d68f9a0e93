# SPDX-License-Identifier: Apache-2.0
"""Weights on disk: what is written is read back, and files that are damaged, foreign or hostile are refused."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from medrecon.config import ComponentConfig
from medrecon.errors import AssetError
from medrecon.networks.checkpoint import load_checkpoint, load_into, load_network, save_checkpoint, save_network
from medrecon.networks.weights import Weights, weights_assets, weights_path
from medrecon.testing.networks import small_superglue, small_superpoint

FORMAT = "medrecon-test"


@pytest.fixture
def own(tmp_path):
    network = nn.Linear(3, 2)
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, network.state_dict(), FORMAT, {"width": 3}, "MIT", {"from": "a test"})
    return path, network


def test_round_trip(own):
    path, network = own
    checkpoint = load_checkpoint(path, FORMAT)
    assert (checkpoint.config, checkpoint.license, checkpoint.provenance) == ({"width": 3}, "MIT", {"from": "a test"})
    with torch.device("meta"):
        other = nn.Linear(3, 2)
    load_into(other, checkpoint.state_dict, path)
    x = torch.randn(5, 3)
    assert torch.equal(other(x), network(x))
    assert sorted(p.name for p in path.parent.iterdir()) == ["net.json", "net.safetensors"]


def test_pytorch_file_and_half_precision(tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"weight": torch.ones(2, 3).half(), "n": torch.tensor(4)}, path)
    checkpoint = load_checkpoint(path, FORMAT)
    assert checkpoint.config is None and checkpoint.state_dict["weight"].dtype == torch.float32
    assert checkpoint.state_dict["n"].dtype == torch.int64


class Payload:
    def __reduce__(self):
        return os.system, ("touch " + os.environ["PAYLOAD_MARK"],)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path, monkeypatch, zipped):
    mark = tmp_path / "executed"
    monkeypatch.setenv("PAYLOAD_MARK", str(mark))
    path = tmp_path / "evil.pth"
    torch.save({"weight": torch.ones(1), "x": Payload()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(AssetError, match="evil.pth"):
        load_checkpoint(path, FORMAT)
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(AssetError, match="evil.pth"):
        load_checkpoint(path, FORMAT)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 7, 60, 0.5, 0.99])
def test_truncated(own, tmp_path, suffix, keep):
    path, network = own
    if suffix == ".pth":
        path = tmp_path / "net.pth"
        torch.save(network.state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(AssetError, match="net"):
        load_checkpoint(path, FORMAT)


def test_missing(tmp_path):
    for name in ("none.pth", "none.safetensors"):
        with pytest.raises(AssetError, match="none"):
            load_checkpoint(tmp_path / name, FORMAT)


@pytest.mark.parametrize(
    "change, why",
    [
        ({"format": "medrecon-other"}, "format"),
        ({"version": 2}, "version 2"),
        ({"config": None}, "mappings"),
        ({"provenance": "me"}, "mappings"),
    ],
)
def test_foreign_description(own, change, why):
    path = own[0]
    about = path.with_suffix(".json")
    about.write_text(json.dumps(json.loads(about.read_text()) | change))
    with pytest.raises(AssetError, match=why):
        load_checkpoint(path, FORMAT)


@pytest.mark.parametrize("text", ["", "[1]", "nonsense", "[" * 100000])
def test_broken_description(own, text):
    own[0].with_suffix(".json").write_text(text)
    with pytest.raises(AssetError, match="net.json"):
        load_checkpoint(own[0], FORMAT)


@pytest.mark.parametrize("network", [small_superpoint(), small_superglue()], ids=["superpoint", "superglue"])
@pytest.mark.parametrize(
    "change, why",
    [
        ({"descriptor_size": 4097}, "descriptor_size"),
        ({"descriptor_size": 10**400}, "descriptor_size"),
        ({"descriptor_size": 0}, "descriptor_size"),
        ({"descriptor_size": -1}, "descriptor_size"),
        ({"descriptor_size": None}, "descriptor_size"),
        ({"descriptor_size": "wide"}, "descriptor_size"),
        ({"descriptor_size": 32.5}, "descriptor_size"),
        ({"descriptor_size": [32]}, "descriptor_size"),
        ({"descriptor_size": float("nan")}, "descriptor_size"),
        ({"encoder_widths": 8}, "encoder_widths"),
        ({"encoder_widths": {"0": 8}}, "encoder_widths"),
        ({"encoder_widths": [8, 8, {}, 8]}, "encoder_widths.2"),
        ({"encoder_widths": [8] * 10000}, "encoder_widths"),
        ({"encoder_widths": [8, 8, 8, 5000]}, "encoder_widths.3"),
        ({"__class__": "os.system"}, "__class__"),
        ({"": 1}, "Unexpected"),
    ],
)
def test_sizes_that_no_network_has(tmp_path, network, change, why):
    path = tmp_path / "net.safetensors"
    save_network(path, network, "MIT", {})
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(about | {"config": about["config"] | change}))
    with pytest.raises(AssetError, match=f"net.safetensors: config.*{why}") as caught:
        load_network(path, type(network))
    assert caught.value.remedy and len(caught.value.cause) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("network", [small_superpoint(), small_superglue()], ids=["superpoint", "superglue"])
def test_a_network_is_read_back_as_it_was_saved(tmp_path, network):
    save_network(tmp_path / "net.safetensors", network, "MIT", {})
    other = load_network(tmp_path / "net.safetensors", type(network))
    assert other.config == network.config and not other.training
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    with pytest.raises(ValueError, match="descriptor_size is 0"):
        network.config_class(descriptor_size=0)


@pytest.mark.parametrize("content", [[torch.ones(1)], {}, {"a": 3}, {"model": {"a": torch.ones(1)}}, torch.ones(2)])
def test_pytorch_file_of_something_else(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(AssetError, match="odd.pth"):
        load_checkpoint(tmp_path / "odd.pth", FORMAT)


def test_network_as_part_of_a_pytorch_file(tmp_path):
    torch.save({"extractor": {"a": torch.ones(2)}, "step": 3}, tmp_path / "whole.pth")
    assert list(load_checkpoint(tmp_path / "whole.pth", FORMAT, part="extractor").state_dict) == ["a"]
    for part in ("step", "matcher"):
        with pytest.raises(AssetError, match="whole.pth"):
            load_checkpoint(tmp_path / "whole.pth", FORMAT, part=part)


@pytest.mark.parametrize("tensor", [torch.tensor([1.0, float("nan")]), torch.tensor([float("inf")]).half(),
                                    torch.eye(2).to_sparse(), torch.ones(1, dtype=torch.complex64)])  # fmt: skip
def test_numbers_that_cannot_be_weights(tmp_path, tensor):
    torch.save({"weight": tensor}, tmp_path / "odd.pth")
    with pytest.raises(AssetError, match="odd.pth.*'weight'"):
        load_checkpoint(tmp_path / "odd.pth", FORMAT)


@pytest.mark.parametrize(
    "tensors, why",
    [
        ({"weight": torch.ones(2, 3)}, "lacks 'bias'"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "x": torch.ones(1)}, "holds 'x' too"),
        ({"weight": torch.ones(2, 4), "bias": torch.ones(2)}, r"'weight' has the shape \(2, 4\).*\(2, 3\)"),
    ],
)
def test_another_network(tensors, why):
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    with pytest.raises(AssetError, match=why):
        load_into(network, tensors, Path("net.pth"))
    assert torch.equal(network.weight, before)


class Options(ComponentConfig):
    weights: Weights = "superpoint"


def test_option_is_an_asset_or_a_file(tmp_path):
    assert weights_assets(Options().weights) == ("superpoint",)
    file = Options(weights="mine/net.safetensors").weights
    assert isinstance(file, Path) and weights_assets(file) == ()
    assert isinstance(Options(weights=tmp_path / "net.pth").weights, Path)
    with pytest.raises(AssetError, match="is not a file"):
        weights_path(tmp_path / "net.pth")
    with pytest.raises(ValidationError, match="neither the name of an asset"):
        Options(weights="/etc/passwd")


def test_option_that_names_no_asset():
    with pytest.raises(AssetError, match="no-such-weights"):
        weights_path(Options(weights="no-such-weights").weights)

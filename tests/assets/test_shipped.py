# SPDX-License-Identifier: Apache-2.0
"""Weights in the package: there without being fetched, shown for what they are, and refused where they are not right."""

import json
import os
import shutil
import subprocess
import sys
import types
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import medrecon
from medrecon import assets
from medrecon.assets import Asset, Shipped, Url
from medrecon.assets.shipped import FOLDER, LARGEST_TOTAL_BYTES, NETWORKS, ship, shipped_assets
from medrecon.cli import main
from medrecon.config.run_config import load_config
from medrecon.errors import AssetError, InputError
from medrecon.features.superpoint_network import SuperpointNetwork
from medrecon.networks.checkpoint import load_network, save_checkpoint, save_network
from medrecon.pipeline import weights
from medrecon.plugins import hookimpl
from medrecon.plugins.manager import Plugins
from medrecon.report.sections import provenance
from medrecon.testing import phantoms
from medrecon.testing.networks import small_superglue, small_superpoint
from medrecon.testing.weights import forbid_network

OURS = "superpoint-medrecon"
RUN = {
    "source": {"name": "image-folder", "path": "x"},
    "features": {"name": "superpoint", "weights": OURS},
    "matching": {"name": "nearest-neighbour"},
}
FRONT_ENDS = [
    {"title": "ours", "features": {"name": "superpoint", "weights": OURS}, "matching": {"name": "nearest-neighbour"}},
    {"features": {"name": "sift"}, "matching": {"name": "nearest-neighbour"}},
]


def export(folder: Path, network, license="Apache-2.0", card="# a card\n") -> Path:
    """What a training leaves: weights in fp16, their description and the model card."""
    path = folder / "trained.safetensors"
    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    save_checkpoint(path, state, network.format, asdict(network.config), license, {"made by": "a test"})
    if card:
        path.with_suffix(".md").write_text(card)
    return path


@pytest.fixture
def install(monkeypatch, tmp_path):
    """A medrecon whose package holds these weights: install(experimental) -> its folder of weights."""

    def install(experimental: bool = True) -> Path:
        folder = tmp_path / "package"
        ship(export(tmp_path, small_superpoint()), OURS, "small", experimental=experimental, folder=folder)
        monkeypatch.setattr("medrecon.builtins.shipped_assets", lambda: shipped_assets(folder))
        registry = Plugins([])
        assert registry.problems == []
        monkeypatch.setattr("medrecon.plugins.manager.plugins", lambda: registry)
        return folder

    return install


def test_it_is_there_without_being_fetched(install, monkeypatch, tmp_path):
    folder = install()
    forbid_network(monkeypatch)
    assert assets.path(OURS) == assets.require(OURS) == assets.fetch(OURS) == folder / f"{OURS}.safetensors"
    assert assets.asset(OURS).download_bytes == 0 and assets.obstacle(OURS, verify=True) is None
    assert not (tmp_path / "home").exists()
    image = phantoms.texture_image(120, 160, seed=4, cell_px=14)
    found = medrecon.create("extractor", "superpoint", weights=OURS, device="cpu").extract(image)
    save_network(tmp_path / "fp32.safetensors", small_superpoint(), "MIT", {})
    path = str(tmp_path / "fp32.safetensors")
    plain = medrecon.create("extractor", "superpoint", weights=path, device="cpu").extract(image)
    both = {tuple(p) for p in found.xy.tolist()} & {tuple(p) for p in plain.xy.tolist()}
    assert len(found) > 50 and len(both) > 0.8 * len(found)


def test_half_precision_is_stored_and_float32_is_computed_with(install):
    place = assets.path(OURS) if install() else None
    network = load_network(place, SuperpointNetwork)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert place.stat().st_size < 1.2 * sum(2 * p.numel() for p in network.parameters()) + 10_000
    for name, value in small_superpoint().state_dict().items():
        np.testing.assert_allclose(network.state_dict()[name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("experimental", [True, False])
def test_the_list_says_what_it_is(install, capfd, experimental):
    install(experimental)
    assert main(["weights", "list"]) == 0
    (line,) = [x for x in capfd.readouterr().out.splitlines() if x.startswith(OURS)]
    assert "here, ships with medrecon" in line and ("experimental: small" in line) == experimental
    assert main(["weights", "list", "--json"]) == 0
    (row,) = [r for r in json.loads(capfd.readouterr().out) if r["name"] == OURS]
    assert row["state"] == "here" and row["shipped"] and row["experimental"] == experimental
    assert row["sources"] == ["ships with medrecon"] and row["license"] == "Apache-2.0"


@pytest.mark.parametrize("experimental", [True, False])
def test_a_run_its_manifest_and_its_report_say_that_weights_are_experimental(install, experimental):
    install(experimental)
    config = load_config(RUN)
    notes = weights.check(config)
    assert [OURS in n and "experimental" in n for n in notes] == [True] * experimental
    (facts,) = weights.used(config, [{"name": "features"}])
    assert facts["experimental"] is experimental and facts["license"] == "Apache-2.0" and facts["acceptance"] is None
    (words,) = provenance({"weights": [facts]}).weights
    assert words.startswith(f"{OURS}: Apache-2.0") and ("experimental" in words) == experimental


def test_a_default_only_when_no_longer_experimental(install):
    install(experimental=True)
    run = {"source": RUN["source"], "front_ends": FRONT_ENDS}
    config = load_config(run)
    assert config.sections["features"].component.name == "sift"
    assert config.choice.passed_over == (
        ("ours", f"{OURS} is experimental", "-o front_end=ours chooses it all the same"),
    )
    asked = load_config(run, ["front_end=ours"])
    assert asked.sections["features"].options.weights == OURS and asked.choice.chosen == "ours"
    install(experimental=False)
    assert load_config(run).sections["features"].options.weights == OURS


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_package_is_named_with_the_remedy(install, damage):
    place = install() / f"{OURS}.safetensors"
    if damage == "gone":
        place.unlink()
    else:
        place.write_bytes(place.read_bytes()[:-1] + b"x")
    for act in (assets.require, assets.fetch):
        with pytest.raises(AssetError, match=OURS) as caught:
            act(OURS)
        assert caught.value.remedy == "install medrecon again"
    with pytest.raises(AssetError, match="the run lacks") as caught:
        weights.check(load_config(RUN))
    assert caught.value.remedy == "install medrecon again"


@pytest.mark.parametrize("text", ["", "[]", '{"license": "MIT"}', '{"license": "MIT", "shipped": {"summary": "x"}}'])
def test_a_damaged_description_is_an_error(install, text):
    folder = install()
    (folder / f"{OURS}.json").write_text(text)
    with pytest.raises(AssetError, match=f"{OURS}.json"):
        shipped_assets(folder)


def test_what_this_release_has_not_is_said(monkeypatch):
    registry = Plugins([])
    monkeypatch.setattr("medrecon.plugins.manager.plugins", lambda: registry)
    for name in set(NETWORKS) - {a.name for a in assets.entries()}:
        with pytest.raises(AssetError, match="ships no weights"):
            assets.asset(name)


@pytest.mark.parametrize(
    "entry",
    [
        Asset(OURS, "weights", "mine", "MIT", "", 1, "0" * 64, (Url("https://example.org/w.pth"),)),
        Asset("mine", "weights", "mine", "MIT", "", 1, "0" * 64, (Shipped(Path("/x/w.safetensors")),)),
    ],
)
def test_plugins_take_neither_the_names_nor_the_place(entry):
    plugin = types.ModuleType("a_plugin")
    plugin.medrecon_assets = hookimpl(lambda: [entry])
    plugin.medrecon_assets.__name__ = "medrecon_assets"
    registry = Plugins([("taker", "tests 1.0", lambda: plugin)])
    assert [p for p in registry.problems if entry.name in p.cause]
    assert entry not in registry.assets()


def test_what_cannot_be_shipped(tmp_path, monkeypatch):
    folder, network = tmp_path / "package", small_superpoint()
    with pytest.raises(InputError, match="no weights are shipped as 'mine'"):
        ship(export(tmp_path, network), "mine", "x", folder=folder)
    with pytest.raises(InputError, match="CC-BY-NC"):
        ship(export(tmp_path, network, license="CC-BY-NC-4.0"), OURS, "x", folder=folder)
    with pytest.raises(AssetError, match="medrecon-superpoint"):
        ship(export(tmp_path, small_superglue()), OURS, "x", folder=folder)
    (tmp_path / "trained.md").unlink()
    with pytest.raises(InputError, match="no model card"):
        ship(export(tmp_path, network, card=""), OURS, "x", folder=folder)
    monkeypatch.setattr("medrecon.assets.shipped.LARGEST_TOTAL_BYTES", 30_000)
    with pytest.raises(InputError, match="more than 30"):
        ship(export(tmp_path, network), OURS, "x", folder=folder)
    assert not folder.exists()


def test_what_is_shipped_now_is_right():
    """Of the working tree itself: every file verified, loadable, with its card, and no more than 30 MB in all."""
    found = shipped_assets()
    for entry in found:
        assert entry.name in NETWORKS and entry.license == "Apache-2.0"
        assert assets.digest(entry.sources[0].path) == entry.sha256
        assert entry.sources[0].path.with_suffix(".md").read_text(encoding="utf-8").strip()
    assert sum(p.stat().st_size for p in FOLDER.glob("*.safetensors")) <= LARGEST_TOTAL_BYTES
    assert {p.stem for p in FOLDER.glob("*")} == {a.name for a in found}


def test_a_wheel_holds_them(tmp_path):
    """`make wheel` of a tree with weights in their place; nothing is compiled."""
    root, tree = Path(medrecon.__file__).parents[1], tmp_path / "tree"
    if not (root / "pyproject.toml").is_file():
        pytest.skip("not a source tree")
    tree.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(root / name, tree)
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "_C.json")
    for name in ("medrecon", "csrc"):
        shutil.copytree(root / name, tree / name, ignore=ignored)
    ship(export(tmp_path, small_superpoint()), OURS, "small", folder=tree / "medrecon" / "assets" / "weights")
    command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), "."]
    environment = {**os.environ, "MEDRECON_BUILD": "none"}
    built = subprocess.run([sys.executable, "-m", *command], cwd=tree, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("medrecon-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"medrecon/assets/weights/{OURS}.{suffix}" for suffix in ("safetensors", "json", "md")} <= names

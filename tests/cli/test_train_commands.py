# SPDX-License-Identifier: Apache-2.0
"""The whole chain of training as a user types it, tiny: shards, SuperPoint, SuperGlue, export, use, curves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import medrecon
from medrecon.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import tiny_shards  # noqa: E402


def call(*arguments, code=0):
    assert main([str(a) for a in arguments]) == code


def settings(words):
    return [part for word in words for part in ("--set", word)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with shards, and a finished training of each kind."""
    root = tmp_path_factory.mktemp("train")
    data, before = tiny_shards.write(root / "shards"), torch.get_num_threads()
    torch.set_num_threads(1)
    common = ["--data", data, "--cache", root / "cache", "--device", "cpu", "-q"]
    call("train", "superpoint", *common, "--out", root / "sp", "--steps", 4, *settings(tiny_shards.SUPERPOINT))
    weights = root / "sp" / "superpoint.safetensors"
    glue = settings(tiny_shards.SUPERGLUE)
    call("train", "superglue", *common, "--out", root / "sg", "--steps", 3, "--superpoint", weights, *glue)
    torch.set_num_threads(before)
    return root


def test_help_teaches(capfd):
    call("train", "--help")
    text = " ".join(capfd.readouterr().out.split())
    for name in ("data", "superpoint", "superglue", "adapt", "export", "curves", "settings"):
        assert name in text
    assert "In order: train data, train superpoint, train superglue, train export" in text
    for name in ("data", "superpoint", "superglue", "adapt", "export", "curves"):
        call("train", name, "--help")
        assert f"Example: medrecon train {name}" in " ".join(capfd.readouterr().out.split())


def test_processes_of_torchrun_do_not_train_weights_side_by_side(capfd, monkeypatch, tmp_path):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    call("train", "superpoint", "--data", tmp_path, "--out", tmp_path / "out", code=2)
    assert "2 processes were started" in capfd.readouterr().err and not (tmp_path / "out").exists()


def test_exported_weights_match_pictures(capfd, tmp_path, trained):
    for kind in ("sp", "sg"):
        call("train", "export", trained / kind, "--out", tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{kind}.{suffix}" for kind in ("superpoint", "superglue") for suffix in ("safetensors", "json", "md", "png")
    }
    extractor = medrecon.create("extractor", "superpoint", weights=tmp_path / "superpoint.safetensors", threshold=0.0)
    matcher = medrecon.create("matcher", "superglue", weights=tmp_path / "superglue.safetensors")
    image = np.random.default_rng(0).integers(0, 256, (64, 96), np.uint8)
    features = extractor.extract(image)
    assert len(features) > 4 and features.descriptors.shape[1] == 16
    matcher.match(features, features).validate(len(features), len(features))
    call("train", "export", trained / "sp", "--out", tmp_path, code=2)
    assert "superpoint.safetensors, superpoint.json, superpoint.md already" in capfd.readouterr().err
    call("train", "export", trained / "sp", "--out", tmp_path, "--force")


def test_what_is_exported_says_where_it_comes_from_and_no_path(tmp_path, trained):
    table = tmp_path / "results.md"
    table.write_text("| method | figure |\n|---|---|\n| ours | 0.5 |\n")
    call("train", "export", trained / "sg", "--out", tmp_path / "w", "--name", "mine", "--evaluation", table)
    about = json.loads((tmp_path / "w" / "mine.json").read_text())
    facts, card = about["provenance"], (tmp_path / "w" / "mine.md").read_text()
    assert about["license"] == "Apache-2.0" and facts["seed"] == 0 and facts["steps"] == 3
    assert {(s["name"], s["license"], s["citation"]) for s in facts["data"]} == {
        ("ball-train", "CC0-1.0", "made here"),
        ("photos-train", "CC0-1.0", "made here"),
    }
    assert "--steps 3" in facts["command"] and "--set keypoints=16" in facts["command"]
    assert "| ours | 0.5 |" in card and "ball-train" in card and facts["command"] in card and "mine.png" in card
    threshold = about["config"]["match_threshold"]
    assert f"Matches more probable than **{threshold:g}** are kept" in card and "| 0.85 |" in card
    for text in (card, json.dumps(about)):
        assert str(trained) not in text and str(Path.home()) not in text and os.uname().nodename not in text
    half = (tmp_path / "w" / "mine.safetensors").stat().st_size
    call("train", "export", trained / "sg", "--out", tmp_path / "full", "--full-precision")
    assert (tmp_path / "full" / "superglue.safetensors").stat().st_size > half


def test_evaluation_takes_the_threshold_of_the_weights(tmp_path, trained):
    from medrecon.training.evaluate import Trial, evaluate

    found = {}
    for own in (0.0, 0.99, None):
        path = tmp_path / f"{own}.safetensors"
        path.write_bytes((trained / "sg" / "superglue.safetensors").read_bytes())
        about = json.loads((trained / "sg" / "superglue.json").read_text())
        about["config"].pop("match_threshold")
        about["config"] |= {} if own is None else {"match_threshold": own}
        path.with_suffix(".json").write_text(json.dumps(about))
        found[own] = evaluate(
            trained / "shards",
            "test",
            trained / "sp" / "superpoint.safetensors",
            path,
            Trial(views=10, pairs=2, size=(64, 64), keypoints=16),
            torch.device("cpu"),
            lambda text: None,
            trained / "cache",
        )
    assert [found[own]["match_threshold"] for own in found] == [0.0, 0.99, 0.2]
    matches = {own: results["matching"]["superglue"]["mixed_matches"] for own, results in found.items()}
    assert matches[0.0] > matches[0.99] == 0 and matches[0.0] >= matches[None]


def test_the_same_command_again_changes_nothing_and_another_is_refused(capfd, trained):
    common = [
        "train",
        "superpoint",
        "--data",
        trained / "shards",
        "--cache",
        trained / "cache",
        "--out",
        trained / "sp",
    ]
    common += ["--device", "cpu", "-q", "--steps", 4, *settings(tiny_shards.SUPERPOINT)]
    before = (trained / "sp" / "superpoint.safetensors").read_bytes()
    call(*common)
    assert (trained / "sp" / "superpoint.safetensors").read_bytes() == before
    assert "4 steps" in capfd.readouterr().out
    call(*common, "--set", "batch=3", code=2)
    assert "batch was 2, is 3" in capfd.readouterr().err


def test_curves_of_two_trainings(capfd, tmp_path, trained):
    call("train", "curves", trained / "sp", trained / "sg", "--out", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["sp", "sg"] and lines[1].split() == ["steps", "4", "3"]


def test_printed_settings_can_be_given_back(capfd, tmp_path):
    call("train", "settings", "superpoint", "--recipe", "cpu")
    printed = capfd.readouterr().out
    assert yaml.safe_load(printed)["superpoint"]["encoder_widths"] == [32, 32, 64, 128]
    file = tmp_path / "mine.yaml"
    file.write_text(printed)
    from medrecon.training.superpoint import SuperpointSettings
    from medrecon.training.yaml_config import load_settings

    assert load_settings(SuperpointSettings, "superpoint", file) == load_settings(
        SuperpointSettings, "superpoint", recipe="cpu"
    )
    call("train", "settings", "adapt")
    assert yaml.safe_load(capfd.readouterr().out)["adapt"]["learn"]["pull"] > 0


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["superpoint", "--data", "absent", "--out", "{tmp}/o"], 3, "absent"),
        (["superpoint", "--data", "absent", "--out", "{tmp}/o", "--set", "batsch=2"], 2, "unknown key 'batsch'"),
        (["superpoint", "--data", "absent", "--out", "{tmp}/o", "--recipe", "gpu"], 2, "there is no recipe 'gpu'"),
        (["superpoint", "--data", "absent", "--out", "{tmp}/o", "--device", "tpu"], 2, "there is no device 'tpu'"),
        (["superpoint", "--data", "absent", "--out", "{tmp}/o", "--steps", "1", "--minutes", "1"], 2, "steps or minutes"),
        (["superglue", "--data", "{shards}", "--out", "{tmp}/o", "--superpoint", "no.safetensors", "--set", "views=4"], 3, "no.safetensors"),
        (["data", "--out", "{shards}"], 2, "holds shards already"),
        (["data", "--out", "{tmp}/o", "--only", "no-such-shard"], 3, "no-such-shard"),
        (["export", "{tmp}", "--out", "{tmp}/o"], 3, "holds no training"),
        (["curves", "{tmp}"], 3, "holds no curves"),
        (["settings", "superglu"], 2, "there is no training 'superglu'"),
        (["adapt", "--data", "absent.mp4", "--out", "{tmp}/o", "--weights", "no-such-weights"], 3, "no-such-weights"),
    ],
)  # fmt: skip
def test_mistakes_are_named(capfd, tmp_path, trained, arguments, code, words):
    call("train", *(a.format(tmp=tmp_path, shards=trained / "shards") for a in arguments), code=code)
    assert words in capfd.readouterr().err


def test_an_unfinished_training_is_not_exported_and_goes_on(tmp_path, trained):
    """Ctrl-C: exit code 130, and the same command goes on to the same weights as without."""
    out = tmp_path / "cut"
    command = [sys.executable, "-m", "medrecon", "train", "superpoint", "--data", trained / "shards", "--out", out]
    command += ["--cache", trained / "cache", "--device", "cpu", "--steps", 60, *settings(tiny_shards.SUPERPOINT)]
    command += ["--set", "schedule.validations=0", "--set", "schedule.log_every=1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([str(c) for c in command], env=environment, stderr=subprocess.PIPE, text=True)
    curves = out / "curves.jsonl"
    while process.poll() is None and (not curves.exists() or curves.read_text().count("\n") < 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "run the same command again to go on" in said
    call("train", "export", out, "--out", tmp_path / "w", code=3)
    again = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    steps = [json.loads(line)["step"] for line in curves.read_text().splitlines() if '"train"' in line]
    assert steps == list(range(1, 61))

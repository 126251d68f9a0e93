# SPDX-License-Identifier: Apache-2.0
"""Adapting from pictures to weights, small; and whose licence the result has."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import medrecon
from medrecon.errors import AssetError, ConfigError, InputError
from medrecon.features.superpoint_network import SuperpointNetwork, SuperpointNetworkConfig
from medrecon.networks.checkpoint import save_network
from medrecon.pipeline.display import Display
from medrecon.training.adapt import AdaptSettings, adapt
from medrecon.training.adapt_check import CheckSettings
from medrecon.training.adapt_task import LearnSettings
from medrecon.training.export import export
from medrecon.training.origin import NOT_STATED, Origin, origin_of
from medrecon.training.settings import Schedule

SETTINGS = AdaptSettings(
    size_px=112,
    frames=5,
    learn=LearnSettings(
        crop_px=(48, 64), pairs=1, corners=24, others=8, label_warps=2, label_threshold=0.0, label_count=50
    ),
    check=CheckSettings(gaps=(1,), pairs=2, warps=2, keypoints=60),
)
SCHEDULE = Schedule(steps=3, minutes=None, log_every=1, validations=1, precision="fp32")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "PATIENT NAME"
    folder.mkdir()
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 256, (80, 200, 3), np.uint8), (0, 0), 1.5)
    for i in range(22):
        cv2.imwrite(str(folder / f"{i:03d}.png"), wide[:, 3 * i : 3 * i + 112])
    return folder


@pytest.fixture
def start(tmp_path):
    torch.manual_seed(0)
    network = SuperpointNetwork(SuperpointNetworkConfig((4, 8, 8, 16), 16, 16))
    path = tmp_path / "mine.safetensors"
    save_network(path, network, "for the ward's own research only", {"from": "somewhere"})
    return path


def run(pictures, start, out, settings=SETTINGS, **more):
    return adapt(pictures, start, out, settings, SCHEDULE, more, "cpu", Display(quiet=True))


def test_from_pictures_to_weights_and_once_only(tmp_path, pictures, start):
    out = tmp_path / "out"
    results = run(pictures, start, out)
    assert results["frames"] == {"read": 22, "learn": 5, "held_out": 7}
    assert results["verdict"] in ("better", "worse", "unclear") and results["training"]["steps"] == 3
    assert json.loads((out / "results.json").read_text()) == results
    assert "| figure |" in (out / "results.md").read_text()
    assert not (out / "pictures").exists()  # the user's pictures do not stay behind

    weights = out / "superpoint-adapted.safetensors"
    extractor = medrecon.create("extractor", "superpoint", weights=weights, threshold=0.0)
    image = np.random.default_rng(1).integers(0, 256, (80, 112), np.uint8)
    assert extractor.extract(image).descriptors.shape[1] == 16
    about = json.loads(weights.with_suffix(".json").read_text())
    assert about["license"].startswith("for the ward's own research only (derived from ")
    assert about["provenance"]["derived_from"]["provenance"] == {"from": "somewhere"}
    for path in out.glob("*"):
        if path.suffix in (".json", ".md", ".jsonl"):
            assert "PATIENT" not in path.read_text() and str(tmp_path) not in path.read_text()

    export(out, tmp_path / "w", name="mine")
    card = (tmp_path / "w" / "mine.md").read_text()
    assert "**Licence: for the ward's own research only (derived from " in card and "5 frames" in card
    assert json.loads((tmp_path / "w" / "mine.json").read_text())["license"] == about["license"]
    assert str(tmp_path) not in card and "PATIENT" not in card

    stamp = os.stat(weights).st_mtime_ns
    assert run(pictures, start, out) == results and os.stat(weights).st_mtime_ns == stamp
    with pytest.raises(ConfigError, match="frames was 5, is 6"):
        run(pictures, start, out, AdaptSettings(**{**vars(SETTINGS), "frames": 6}))


def test_a_killed_one_goes_on_to_the_same_result(tmp_path, pictures, start, monkeypatch):
    whole = run(pictures, start, tmp_path / "whole")
    from medrecon.training import adapt_check

    real = adapt_check.measure

    def killed(frames, weights, *rest):
        if weights != start:
            raise KeyboardInterrupt
        return real(frames, weights, *rest)

    monkeypatch.setattr(adapt_check, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, start, tmp_path / "cut")
    monkeypatch.setattr(adapt_check, "measure", lambda frames, weights, *rest: real(frames, weights, *rest))
    again = run(pictures, start, tmp_path / "cut")
    assert again["table"] == whole["table"]


def test_a_folder_with_something_else_is_left_alone(tmp_path, pictures, start):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        run(pictures, start, tmp_path)
    with pytest.raises(AssetError):
        run(pictures, tmp_path / "absent.safetensors", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_settings_may_change_until_something_was_measured(tmp_path, pictures, start):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="too few"):
        run(pictures, start, out, stride=3)
    assert run(pictures, start, out)["frames"]["read"] == 22


def origin(license, name="superpoint"):
    return Origin(name, license, "0" * 64, "", {})


def test_derived_weights_keep_the_licence_of_those_they_start_from():
    magicleap = next(a for a in medrecon.assets.entries("weights") if a.name == "superpoint")
    derived = origin(magicleap.license).derived_license
    assert "noncommercial research only, no redistribution" in derived and "derived from superpoint" in derived
    assert origin(derived, "a file of the user's").derived_license == derived  # however often
    assert origin("Apache-2.0", "ours").derived_license == "Apache-2.0"
    assert origin("").derived_license == NOT_STATED
    assert origin(NOT_STATED).derived_license == NOT_STATED


def test_a_file_says_its_own_licence(tmp_path, start):
    found = origin_of(start)
    assert found.license == "for the ward's own research only" and found.name == "a file of the user's"
    bare = tmp_path / "bare.pth"
    torch.save({"a": torch.zeros(1)}, bare)
    assert origin_of(bare).derived_license == NOT_STATED


@pytest.mark.slow
def test_the_laparoscopy_clip_is_read_and_split(tmp_path):
    clip = Path(__file__).resolve().parents[3] / "shared" / "data" / "endo.mp4"
    if not clip.is_file():
        pytest.skip("the clip is not here")
    from medrecon.training.adapt_data import read_frames

    found = read_frames(clip, tmp_path, 160, 50, 0.3, 0.05, {}, Display(quiet=True))
    assert (found.n_read, len(found.learn), len(found.held_out)) == (250, 50, 75)
    assert all(f.mask_path is not None for f in found.learn.frames)  # the endoscope's border

# SPDX-License-Identifier: Apache-2.0
"""SuperPoint's training from shards to weights that the extractor reads; resumed after kill -9 to the bit."""

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
from flat_pairs import scene

from medrecon.errors import ConfigError
from medrecon.features.superpoint import SuperpointExtractor, SuperpointExtractorConfig
from medrecon.training.curves import read_curves
from medrecon.training.settings import Schedule
from medrecon.training.shards import ShardMeta, write_photos
from medrecon.training.superpoint import SuperpointSettings, run

TINY = {
    "encoder_widths": (4, 4, 8, 8), "head_width": 8, "descriptor_size": 8, "views": 6, "validation_views": 4,
    "batch": 2, "crop": (48, 64), "corners": 16, "others": 16, "validation_pairs": 3, "validation_size": (48, 64),
}  # fmt: skip


def photographs(folder: Path) -> Path:
    for k, split in enumerate(("train", "val")):
        photos = np.stack([(scene(10 * k + i, 320)[0, 0, :240].numpy() * 255).astype(np.uint8) for i in range(3)])
        write_photos(folder, ShardMeta(split, split, split, "photo", "CC0-1.0", "made for a test"), photos)
    return folder


def go(folder: Path, out: Path, steps: int = 24, checkpoint_s: float = 25.0, **settings):
    schedule = Schedule(
        steps=steps, minutes=None, log_every=4, validations=2, checkpoint_s=checkpoint_s, precision="fp32"
    )
    return run(
        SuperpointSettings(**TINY | settings), schedule, folder, out, torch.device("cpu"), lambda text: None,
        folder / "cache",
    )  # fmt: skip


def curve(out: Path):
    lines = read_curves(out)
    for line in lines:
        line.pop("seconds")
        line.get("train", {}).pop("pairs_per_s", None)
    return lines


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("shards"))


def test_trains_and_exports_what_the_extractor_reads(data, tmp_path):
    summary = go(data, tmp_path)
    assert summary["seed"] == 0 and summary["data"][0]["license"] == "CC0-1.0"
    assert 0 <= summary["baseline"]["flat_repeatability"] <= 1
    phases = [line["train"] for line in read_curves(tmp_path) if "train" in line]
    assert "labels" not in phases[0] and {"labels", "descriptor"} <= phases[-1].keys()
    assert {"flat_repeatability", "flat_mma_3px", "flat_keypoints"} <= summary["validation"].keys()
    about = json.loads((tmp_path / "superpoint.json").read_text())
    assert about["provenance"]["steps"] == 24 and about["license"] == "Apache-2.0"
    extractor = SuperpointExtractor(
        SuperpointExtractorConfig(weights=str(tmp_path / "superpoint.safetensors"), threshold=0.0)
    )
    features = extractor.extract((scene(3)[0, 0].numpy() * 255).astype(np.uint8))
    assert features.descriptors.shape[1] == 8 and len(features.xy) > 5


def test_the_losses_fall(data, tmp_path):
    go(data, tmp_path, steps=40, learning_rate=0.01, descriptor_from=0.0)
    lines = [line["train"] for line in read_curves(tmp_path) if "train" in line]
    labels = [line["labels"] for line in lines if "labels" in line]
    assert labels[-1] < 0.85 * max(labels)
    assert lines[-1]["descriptor"] < 0.9 * lines[0]["descriptor"]
    assert max(line["gradient"] for line in lines) < 1e4


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="crop"):
        SuperpointSettings(crop=(100, 160))
    with pytest.raises(ConfigError, match="at least 1"):
        SuperpointSettings(batch=0)


SCRIPT = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_superpoint_task import go
torch.set_num_threads(1)
go(Path(sys.argv[1]), Path(sys.argv[2]), 40, 0.0)
"""


def test_killed_and_resumed_is_the_same_to_the_bit(data, tmp_path):
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", SCRIPT, str(data), str(tmp_path / "killed"), str(Path(__file__).parent)]
    process = subprocess.Popen(command, env=env)
    end = time.monotonic() + 100
    while time.monotonic() < end and process.poll() is None:
        lines = read_curves(tmp_path / "killed")
        if lines and lines[-1]["step"] >= 12:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    step = torch.load(tmp_path / "killed/state.pt", weights_only=True)["plain"]["step"]
    assert 11 <= step < 40
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        go(data, tmp_path / "killed", 40)
        go(data, tmp_path / "whole", 40)
    finally:
        torch.set_num_threads(threads)
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    files = [(tmp_path / n / "superpoint.safetensors").read_bytes() for n in ("killed", "whole")]
    assert files[0] == files[1]

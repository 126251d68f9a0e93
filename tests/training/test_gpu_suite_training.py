# SPDX-License-Identifier: Apache-2.0
"""The training part of benchmarks/gpu_suite.sh, tiny, with torch and numpy alone."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_shards

from medrecon.networks.checkpoint import load_network

SUITE = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_suite.sh"
STEPS = ("train_superpoint", "train_superglue", "evaluate")
BARE = """
import sys
ABSENT = {"cv2", "jsonschema", "matplotlib", "nibabel", "PIL", "pycolmap", "pydantic", "pydicom", "pytest", "rich",
          "safetensors", "scipy", "skimage", "tensorboard", "typer", "vtk", "yaml"}

class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Bare())
"""


def run(bare: Path, *arguments):
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(bare)}
    environment |= {"TMPDIR": str(bare), "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(SUITE), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture
def bare(tmp_path):
    """A folder that hides every package but torch and numpy."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BARE)
    environment = os.environ | {"PYTHONPATH": str(folder)}
    there = subprocess.run([sys.executable, "-c", "import pydantic"], env=environment, capture_output=True)
    assert there.returncode != 0
    return folder


def small():
    words = [f"superpoint.{w}" for w in tiny_shards.SUPERPOINT] + [f"superglue.{w}" for w in tiny_shards.SUPERGLUE]
    words += ["evaluate.views=10", "evaluate.pairs=2", "evaluate.keypoints=16"]
    words += [
        f"{kind}.schedule.{w}" for kind in ("superpoint", "superglue") for w in ("validations=1", "checkpoint_s=1")
    ]
    return [part for word in words for part in ("--set", word)]


def unlocked(folder):
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


@pytest.mark.slow
def test_the_training_leaves_weights_curves_and_evaluation_and_goes_on_after_a_cut(tmp_path, bare):
    data = tiny_shards.write(tmp_path / "some shards")
    common = ["--data", data, "--only", ",".join(STEPS), *small()]
    # The first call is over before the training is: 18 s of training are planned. A slow disk may need longer to begin.
    for minutes in (0.15, 0.3, 0.6, 1.2):
        first = run(bare, "--out", tmp_path / "first", "--minutes", minutes, "--training-minutes", "0.3", *common)
        assert first.returncode == 1, first.stdout
        if "train_superpoint: no time left" not in first.stdout:
            break
    assert "train_superpoint: not finished" in first.stdout, first.stdout
    seen = (
        sum(1 for _ in open(tmp_path / "first" / "superpoint" / "curves.jsonl"))
        if (tmp_path / "first" / "superpoint" / "curves.jsonl").exists()
        else 0
    )
    for path in (tmp_path / "first").rglob("*"):
        path.chmod(path.stat().st_mode & ~0o222)
    out = tmp_path / "second"
    second = run(bare, "--resume", tmp_path / "first", "--out", out, "--minutes", "4", *common)
    unlocked(tmp_path / "first")
    logs = "".join(p.read_text() for p in out.glob("*.log"))
    assert second.returncode == 0, second.stdout + logs
    assert "training: 0.3 minutes" in second.stdout  # as planned by the first call
    for name in STEPS:
        assert f"{name}: ok" in second.stdout
    for kind in ("superpoint", "superglue"):
        assert (out / kind / f"{kind}.safetensors").is_file() and not (out / kind / "state.pt").exists()
        summary = json.loads((out / kind / "summary.json").read_text())
        assert summary["steps"] > 1 and summary["data"][0]["license"] == "CC0-1.0"
        assert 0.9 * summary["seconds"] < 60 * {"superpoint": 0.18, "superglue": 0.12}[kind] + 15
    assert sum(1 for _ in open(out / "superpoint" / "curves.jsonl")) > seen
    judged = json.loads((out / "evaluate.json").read_text())
    assert judged["split"] == "test" and judged["subjects"] == ["ball test", "photos test"]
    assert {"superpoint", "superpoint + ratio"} <= set(judged["keypoints"]["views"]) and "superglue" in judged[
        "matching"
    ]
    assert sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) < 60e6
    third = run(bare, "--resume", out, "--minutes", "1", *common)
    assert third.returncode == 0 and third.stdout.count("done before") == 3
    load_network_of(out)


def load_network_of(out):
    from medrecon.features.superpoint_network import SuperpointNetwork
    from medrecon.matching.superglue_network import SuperglueNetwork

    assert load_network(out / "superpoint" / "superpoint.safetensors", SuperpointNetwork).config.head_width == 8
    assert load_network(out / "superglue" / "superglue.safetensors", SuperglueNetwork).config.width == 16


def test_without_shards_the_training_is_left_out_with_the_reason(tmp_path, bare):
    found = run(
        bare, "--out", tmp_path / "out", "--minutes", "1", "--only", ",".join(STEPS), "--data", tmp_path / "none"
    )
    assert found.returncode == 0
    assert "training: left out, there are no shards" in found.stdout and "medrecon train data" in found.stdout


def test_wrong_settings_are_said_in_the_log_and_fail(tmp_path, bare):
    data = tiny_shards.write(tmp_path / "shards")
    more = ["--only", "train_superpoint", "--set", "superpoint.batsch=2", "--minutes", "1"]
    found = run(bare, "--out", tmp_path / "out", "--data", data, *more)
    assert found.returncode == 1 and "train_superpoint: FAILED with 2" in found.stdout
    assert "batsch" in (tmp_path / "out" / "train_superpoint.log").read_text()
    assert run(bare, "--out", tmp_path / "o2", "--set", "other.key=1").returncode == 2

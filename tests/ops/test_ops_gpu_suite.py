# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu_suite.sh on whatever machine this is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.ops import selftest

SUITE = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_suite.sh"


def _run(*arguments):
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(["bash", str(SUITE), *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_suite_leaves_every_result_in_its_folder_and_resumes(tmp_path):
    out = tmp_path / "with a space"
    result = _run("--out", str(out), "--minutes", "5")
    assert result.returncode == 0, result.stdout + "".join(p.read_text()[-2000:] for p in out.glob("*.log"))
    assert json.loads((out / "selftest_cpu.json").read_text())["passed"]
    speed = json.loads((out / "speed_cpu.json").read_text())
    assert {c.name for c in selftest.cases(torch.Generator())} <= {row["op"] for row in speed["ops"]}
    assert all(row["ms"] > 0 for row in speed["ops"])
    assert "GPU:" in (out / "summary.txt").read_text()
    again = _run("--resume", str(out), "--minutes", "5")
    assert again.returncode == 0 and again.stdout.count("done before") >= 3


def test_wrong_arguments_print_the_usage_and_change_nothing():
    for arguments in ([], ["--bogus"]):
        result = _run(*arguments)
        assert result.returncode == 2 and "gpu_suite.sh --out DIR" in result.stderr


def test_a_step_that_does_not_exist_is_named_with_those_that_do(tmp_path):
    result = _run("--out", str(tmp_path / "out"), "--only", "build,superpoint")
    assert result.returncode == 2 and "superpoint" in result.stderr and "train_superpoint" in result.stderr
    assert not (tmp_path / "out").exists()


def test_no_time_left_is_a_failure_that_is_said(tmp_path):
    result = _run("--out", str(tmp_path), "--minutes", "0")
    assert result.returncode == 1 and "selftest_cpu: no time left" in result.stdout


def test_the_demo_scene_is_trained_from_its_file_or_left_out(tmp_path):
    result = _run("--out", str(tmp_path / "none"), "--only", "scene")
    assert result.returncode == 0 and "scene: left out, --scene FILE is not given" in result.stdout
    poses = np.tile(np.float32([[1, 0, 0, 0.5], [0, 1, 0, 0.5], [0, 0, 1, -1]]), (6, 1, 1))  # six times the same view
    images = np.zeros((6, 16, 16, 3), np.uint8)
    images[:, 4:12, 4:12] = 200
    np.savez(tmp_path / "scene.npz", images=images, world_from_camera=poses, focal=np.float32(20))
    arguments = ("--minutes", "1", "--only", "scene", "--scene", str(tmp_path / "scene.npz"))
    result = _run("--out", str(tmp_path / "out"), *arguments)
    assert result.returncode == 0, result.stdout
    figures = json.loads((tmp_path / "out" / "scene.json").read_text())
    assert figures["steps"] > 0 and figures["held_out_psnr_db"] > 10 and figures["frame_ms"] > 0

# SPDX-License-Identifier: Apache-2.0
"""kill -9 in each stage, then the same command again: the figures are those of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medrecon.pipeline.stages import STAGES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def command(config, out):
    return [sys.executable, "-m", "medrecon", "run", str(config), "--out", str(out), "--quiet"]


def figures(out):
    result = json.loads((out / "result.json").read_text())
    return {k: v for k, v in result.items() if k != "seconds"}


@pytest.mark.slow
def test_killed_in_every_stage_ends_with_the_figures_of_an_undisturbed_run(tmp_path, small_config):
    subprocess.run(command(small_config, tmp_path / "undisturbed"), check=True, cwd=ROOT)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}",
        "MEDRECON_PLUGINS": "assassin",
        "KILL_LOG": str(tmp_path / "killed"),
    }
    out, codes = tmp_path / "disturbed", []
    for _ in range(len(STAGES) + 1):
        codes.append(subprocess.run(command(small_config, out), env=environment, cwd=ROOT).returncode)
        if codes[-1] == 0:
            break
        assert not (out / "result.json").exists()
    assert codes == [-signal.SIGKILL] * len(STAGES) + [0]
    assert (tmp_path / "killed").read_text().split() == list(STAGES)
    assert figures(out) == figures(tmp_path / "undisturbed")


@pytest.mark.slow
def test_interrupt_saves_and_exits_130_and_the_run_goes_on(tmp_path, small_config):
    import time

    out = tmp_path / "out"
    process = subprocess.Popen(command(small_config, out), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if list((out / "stages").glob(".radiance.*.partial")) if (out / "stages").exists() else []:
            break
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run the same command again" in err
    subprocess.run(command(small_config, out), check=True, cwd=ROOT)
    assert figures(out)["psnr_db"] is not None

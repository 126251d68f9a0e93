# SPDX-License-Identifier: Apache-2.0
"""The training loop: schedule, curves, resuming after kill -9, interruption, refusal, NaN."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from medrecon.errors import ConfigError, StageError
from medrecon.training.curves import read_curves
from medrecon.training.settings import Schedule, flat, override
from medrecon.training.trainer import rate, train

CPU = torch.device("cpu")


class Line:
    """Fits y = 2 x - 1 with a linear layer; the exact answer is known."""

    pairs_per_step = 4

    def __init__(self, lr: float = 0.05, spoil_at: int | None = None, wait_s: float = 0.0):
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        self.lr, self.spoil_at, self.wait_s = lr, spoil_at, wait_s

    def identity(self):
        return {"lr": self.lr}

    def networks(self):
        return {"net": self.net}

    def parameter_groups(self):
        return [{"params": list(self.net.parameters()), "lr": self.lr, "weight_decay": 0.0}]

    def loss(self, step, progress):
        time.sleep(self.wait_s)
        x = torch.randn(64, 1, generator=torch.Generator().manual_seed(step))
        loss = (self.net(x) - (2 * x - 1)).square().mean()
        if step == self.spoil_at:
            loss = loss * float("nan")
        return loss, {"twice": 2 * loss.detach()}

    def validate(self):
        x = torch.linspace(-1, 1, 9)[:, None]
        self.net.eval()
        with torch.no_grad():
            error = float((self.net(x) - (2 * x - 1)).abs().mean())
        self.net.train()
        return {"error": error}

    def conclude(self):
        return {"bias": float(self.net[-1].bias.detach())}

    def export(self, folder, facts):
        torch.save(self.net.state_dict(), folder / "line.pt")


def run(out: Path, task: Line | None = None, **schedule):
    schedule = {"steps": 60, "minutes": None, "log_every": 10, "validations": 3, "precision": "fp32"} | schedule
    return train(task or Line(), Schedule(**schedule), out, CPU, lambda text: None)


def curve(folder: Path):
    """Everything but times and throughput."""
    lines = []
    for line in read_curves(folder):
        line.pop("seconds")
        line.get("train", {}).pop("pairs_per_s", None)
        lines.append(line)
    return lines


def test_learns_writes_curves_and_a_summary(tmp_path):
    summary = run(tmp_path, steps=300)
    assert summary["steps"] == 300 and summary["pairs"] == 1200
    lines = read_curves(tmp_path)
    assert [n["step"] for n in lines if "train" in n] == list(range(10, 301, 10))
    validations = [n for n in lines if "validation" in n]
    assert [n["step"] for n in validations] == [100, 200, 300]
    assert validations[-1]["validation"]["error"] < 0.5 * validations[0]["validation"]["error"] + 0.05
    first = lines[0]["train"]
    assert first["twice"] == pytest.approx(2 * first["loss"], rel=1e-6)
    assert json.loads((tmp_path / "summary.json").read_text())["validation"] == validations[-1]["validation"]
    assert summary["bias"] == json.loads((tmp_path / "summary.json").read_text())["bias"]  # what the task concludes
    assert (tmp_path / "line.pt").exists()


def test_the_same_seed_gives_the_same_curve_and_a_finished_training_is_not_repeated(tmp_path):
    first, _ = run(tmp_path / "a"), run(tmp_path / "b")
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    again = run(tmp_path / "a", Line(wait_s=60))  # would take an hour
    assert again["steps"] == 60 and again["bias"] == first["bias"] and curve(tmp_path / "a") == curve(tmp_path / "b")


def test_rate_warms_up_and_falls_to_its_end():
    schedule = Schedule(steps=100, minutes=None, warmup=0.1, final_rate=0.02)
    assert rate(0.05, schedule) == pytest.approx(0.5)
    assert rate(0.1, schedule) == pytest.approx(1)
    assert rate(0.55, schedule) == pytest.approx(0.51)
    assert rate(1, schedule) == pytest.approx(0.02)
    assert 0 < rate(0, schedule) < 0.01


def test_minutes_end_the_training(tmp_path):
    begun = time.monotonic()
    summary = run(tmp_path, Line(wait_s=0.01), steps=None, minutes=0.01)
    assert 1 <= summary["steps"] <= 60 and time.monotonic() - begun < 30


def test_other_settings_are_refused_and_named(tmp_path):
    run(tmp_path)
    with pytest.raises(ConfigError, match=r"lr was 0\.05, is 0\.1"):
        run(tmp_path, Line(lr=0.1))
    with pytest.raises(ConfigError, match=r"schedule\.clip was 2\.0, is 1\.0"):
        run(tmp_path, clip=1.0)
    (tmp_path / "state.pt").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="not a checkpoint"):
        run(tmp_path)


def test_nan_stops_with_the_last_good_state_kept(tmp_path):
    with pytest.raises(StageError, match="not finite"):
        run(tmp_path, Line(spoil_at=45), checkpoint_s=0.0)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["plain"]["step"] == 45
    assert all(torch.isfinite(v).all() for v in state["networks"]["net"].values())
    run(tmp_path)  # without the fault it goes on
    run(tmp_path / "clean")
    assert curve(tmp_path) == curve(tmp_path / "clean")


SCRIPT = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_trainer import Line, run
torch.set_num_threads(1)
run(Path(sys.argv[1]), Line(wait_s=0.02), steps=150, checkpoint_s=0.1)
"""


def start(folder: Path) -> subprocess.Popen:
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(Path(__file__).parent)], env=env)


def wait_for_a_checkpoint(folder: Path, process: subprocess.Popen, step: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        lines = read_curves(folder)
        if (folder / "state.pt").exists() and lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.02)
    raise AssertionError("no checkpoint was written")


def test_a_killed_training_goes_on_with_the_same_curve(tmp_path):
    for step in (30, 80):
        process = start(tmp_path / "killed")
        wait_for_a_checkpoint(tmp_path / "killed", process, step)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert 0 < torch.load(tmp_path / "killed/state.pt", weights_only=True)["plain"]["step"] < 150
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        run(tmp_path / "killed", steps=150, checkpoint_s=0.1)
        run(tmp_path / "whole", steps=150, checkpoint_s=0.1)
    finally:
        torch.set_num_threads(threads)
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    a, b = (torch.load(tmp_path / n / "line.pt", weights_only=True) for n in ("killed", "whole"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_an_interrupt_saves_and_exits(tmp_path):
    process = start(tmp_path)
    wait_for_a_checkpoint(tmp_path, process, 20)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) != 0
    state = torch.load(tmp_path / "state.pt", weights_only=True)["plain"]
    assert 0 < state["step"] < 150 and not state["finished"]
    assert read_curves(tmp_path)[-1]["step"] <= state["step"]


def test_overrides_read_what_the_fields_ask_for():
    s = override(Schedule(), ["betas=0.8,0.9", "log_every=7"])
    assert s.betas == (0.8, 0.9) and s.log_every == 7
    assert flat(s)["betas"] == [0.8, 0.9]
    with pytest.raises(ConfigError, match="unknown key 'stepz'"):
        override(Schedule(), ["stepz=3"])
    with pytest.raises(ConfigError, match="log_every: 'many' is not a int"):
        override(Schedule(), ["log_every=many"])
    with pytest.raises(ConfigError, match="either steps or minutes"):
        Schedule(steps=3, minutes=3)
    with pytest.raises(ConfigError, match="not key=value"):
        override(Schedule(), ["log_every"])

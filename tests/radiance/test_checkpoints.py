# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what is on disk is one moment of the training, whatever happens meanwhile, and costs little time."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medrecon import ops
from medrecon.errors import InputError
from medrecon.radiance import checkpoint
from medrecon.radiance.checkpoint import Checkpoints, Trace
from medrecon.radiance.field_files import read_tensors, sha256, write_tensors


class Plain(torch.nn.Module):
    """What a checkpoint asks of a renderer; parameters and moments all hold the number of the step."""

    def __init__(self, size: int):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(size))
        self.register_buffer("seen", torch.zeros(7, dtype=torch.uint8))

    def describe(self) -> dict:
        return {"name": "plain", "options": {}}


def made(size: int = 1000):
    renderer = Plain(size)
    optimiser = ops.LazyAdam(renderer.parameters())  # torch's own Adam imports its compiler at the first step
    renderer.weights.sum().backward()
    optimiser.step()
    return renderer, optimiser


@torch.no_grad()
def become(renderer, optimiser, step: int) -> None:
    renderer.weights.fill_(step)
    renderer.seen.fill_(step % 256)
    for key in ("exp_avg", "exp_avg_sq"):
        optimiser.state[renderer.weights][key].fill_(step)


def assert_is(folder: Path, size: int) -> int:
    """Loads; everything must be of the step that is named, which is returned."""
    renderer, optimiser = made(size)
    trace = checkpoint.load(folder, renderer, optimiser, 3)
    state = optimiser.state[renderer.weights]
    for values in (renderer.weights, state["exp_avg"], state["exp_avg_sq"]):
        assert (values == trace.step).all()
    assert (renderer.seen == trace.step % 256).all()
    return trace.step


def test_tensors_of_every_kind_are_read_by_the_library(tmp_path):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 5, generator=generator)
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
             torch.int8, torch.uint8, torch.bool)  # fmt: skip
    tensors = {f"of {kind}": (values * 10).abs().to(kind) for kind in kinds}
    tensors |= {"zz byte": torch.tensor([1], dtype=torch.uint8), "a scalar": torch.tensor(2.5), "turned": values.t()}
    tensors |= {"none": torch.zeros(0, 4), "grown": torch.nn.Parameter(values[:, ::2])}
    path = tmp_path / "tensors.safetensors"
    assert write_tensors(path, tensors) == sha256(path)
    for found in (load_file(path), read_tensors(path, tensors)):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    header = json.loads(path.read_bytes()[8:].split(b"}}")[0] + b"}}")
    assert all(v["data_offsets"][0] % tensors[k].element_size() == 0 for k, v in header.items())
    assert [p.name for p in tmp_path.iterdir()] == ["tensors.safetensors"]


def test_what_cannot_be_written_leaves_nothing_and_says_why(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError) as caught:
        write_tensors(tmp_path / "taken", {"x": torch.zeros(4)})
    assert caught.value.errno == errno.EISDIR and [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_the_training_goes_on_while_it_is_written(tmp_path, monkeypatch):
    go, written = threading.Event(), []

    def slow(path, tensors):
        assert go.wait(20)
        written.append(path.name)
        return write_tensors(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    renderer, optimiser = made()
    with Checkpoints(tmp_path, renderer, optimiser, 3, None) as checkpoints:
        become(renderer, optimiser, 4)
        history, window = [{"step": 4}], [1.0, 2.0, 3.0]
        trace = Trace(4, 1.5, history, window)
        checkpoints.save(trace)
        become(renderer, optimiser, 5)
        trace.step, trace.seconds, window[0] = 5, 9.0, 7.0
        history.append({"step": 5})
        assert not (tmp_path / checkpoint.NAME).exists()
        go.set()
        checkpoints.wait()
        assert assert_is(tmp_path, 1000) == 4
        data = json.loads((tmp_path / checkpoint.NAME).read_text())
        assert (data["seconds"], data["window"], data["history"]) == (1.5, [1.0, 2.0, 3.0], [{"step": 4}])
        checkpoints.save(trace)
    assert assert_is(tmp_path, 1000) == 5  # leaving the block waits
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-00000005.safetensors", "checkpoint.json"]
    assert len(written) == 2


def test_a_full_disk_is_said_by_the_training(tmp_path, monkeypatch):
    def full(path, tensors):
        raise OSError(errno.ENOSPC, "no space")

    renderer, optimiser = made()
    checkpoints = Checkpoints(tmp_path, renderer, optimiser, 3, 1e-6)
    checkpoints.save(Trace(1))
    checkpoints.wait()
    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(OSError, match="no space"), checkpoints:
        checkpoints.save(Trace(2))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            checkpoints.save_if_due(Trace(3))
    assert json.loads((tmp_path / checkpoint.NAME).read_text())["step"] == 1


@pytest.mark.parametrize(("cost", "given", "expected"), [
    (0.0, None, 5.0), (0.04, None, 5.0), (0.3, None, 15.0), (1.0, None, 50.0), (9.0, None, 60.0), (9.0, 0.5, 0.5)
])  # fmt: skip
def test_dear_checkpoints_are_made_less_often(tmp_path, cost, given, expected):
    checkpoints = Checkpoints(tmp_path, *made(), 3, given)
    checkpoints.cost_s = cost
    assert checkpoints.interval_s == pytest.approx(expected)
    if given is None and expected < 60:
        assert cost <= 0.02 * checkpoints.interval_s * (1 + 1e-9)


def test_tensors_that_grow_are_copied_anew(tmp_path):
    renderer, optimiser = made(10)
    with Checkpoints(tmp_path, renderer, optimiser, 3, None) as checkpoints:
        checkpoints.save(Trace(1))
        renderer, optimiser = made(20)
        become(renderer, optimiser, 2)
        checkpoints._renderer, checkpoints._optimiser = renderer, optimiser
        checkpoints.save(Trace(2))
    assert assert_is(tmp_path, 20) == 2
    with pytest.raises(InputError, match="belongs to another|are|needs"):
        assert_is(tmp_path, 10)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_checkpoints import Checkpoints, Trace, become, made
renderer, optimiser = made({size})
checkpoints = Checkpoints(Path({folder!r}), renderer, optimiser, 3, 1e-6)
for step in range({start}, 10**6):
    become(renderer, optimiser, step)
    checkpoints.save_if_due(Trace(step))
"""


def _step(folder: Path) -> int:
    path = folder / checkpoint.NAME
    return json.loads(path.read_text())["step"] if path.exists() else 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    size = 300_000
    for start, delay in ((1, 0.31), (100_000, 0.17)):
        script = KILLED.format(here=str(Path(__file__).parent), size=size, folder=str(tmp_path), start=start)
        child = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            deadline = time.monotonic() + 60
            while _step(tmp_path) <= start and time.monotonic() < deadline:
                assert child.poll() is None
                time.sleep(0.01)
            time.sleep(delay)
        finally:
            child.kill()
            child.wait()
        step = assert_is(tmp_path, size)
        assert step > start
    checkpoint.remove(tmp_path)
    assert not list(tmp_path.iterdir())

# SPDX-License-Identifier: Apache-2.0
"""A run of two processes that torchrun starts: one street, one field, one message when something goes wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from medrecon.config.run_config import load_config
from medrecon.errors import InputError
from medrecon.pipeline import processes
from medrecon.pipeline.cache import stage_keys

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def configuration(folder: Path, n: int = 12) -> Path:
    """A ball of water, seen in a few radiographs at known poses."""
    x = np.indices((n, n, n)).transpose(1, 2, 3, 0) - (n - 1) / 2
    hu = np.where(np.linalg.norm(x, axis=-1) < n / 3, 0, -1000).astype(np.int16)
    nib.save(nib.Nifti1Image(hu, np.diag([5, 5, 5, 1])), folder / "ct.nii.gz")
    text = {
        "version": 1, "preset": "xray", "threads": 2,
        "source": {"name": "projections", "path": "ct.nii.gz", "n_views": 6, "image_size_px": [16, 16],
                   "distance_mm": 300, "white": 2.0},
        "radiance": {"name": "brittle", "white": 2.0, "coarsest": 8, "finest": 16, "levels": 2, "log2_size": 12,
                     "samples": 16, "samples_per_batch": 1024},
        "training": {"iterations": 20, "holdout_every": 6, "pyramid": [], "checkpoint_seconds": 1e-6},
    }  # fmt: skip
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def torchrun(config: Path, out: Path, fails_from: int) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}",
        "MEDRECON_PLUGINS": "saboteur",
        "SABOTAGE_FROM": str(fails_from),
    }
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*start, "-m", "medrecon", "run", str(config), "--out", str(out), "--until", "radiance"]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_an_error_in_one_process_is_said_once_and_the_run_goes_on_later(tmp_path):
    config = configuration(tmp_path)
    failed = torchrun(config, tmp_path / "out", 8)
    assert failed.returncode != 0
    assert failed.stderr.count("error: ") == 1 and "interrupted" not in failed.stderr
    assert "error: process 1 of 2: the cat is on the keyboard\n  try: take it off" in failed.stderr
    assert failed.stderr.count("radiance: train the radiance field") == 1

    done = torchrun(config, tmp_path / "out", 1000)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("result  ") == 1 and "going on from the checkpoint at step 7" in done.stderr
    folder = tmp_path / "out" / "stages" / "radiance"
    assert json.loads((folder / "history.json").read_text())[-1]["step"] == 20


def test_alone_unless_torchrun_says_otherwise(monkeypatch):
    for name in processes.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert (processes.processes(), processes.rank()) == (1, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")  # some schedulers set it
    assert (processes.processes(), processes.rank()) == (1, 0)
    for name, value in zip(processes.VARIABLES, ("3", "4", "localhost", "1234")):
        monkeypatch.setenv(name, value)
    assert (processes.processes(), processes.rank()) == (4, 3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(InputError, match="4 processes were started on a machine with 2 GPU"):
        processes.take_gpu()


def test_the_number_of_processes_decides_the_field(small_config):
    config = load_config(small_config)
    one, two = (stage_keys(config, "cpu", 2, n) for n in (1, 2))
    changed = {k for k in one if one[k] != two[k]}
    assert changed == {"radiance", "render", "surface", "analysis", "export"} and one == stage_keys(config, "cpu", 2)

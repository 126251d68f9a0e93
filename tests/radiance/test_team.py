# SPDX-License-Identifier: Apache-2.0
"""Two processes train one field (gloo, on the CPU): they stay equal, resume, and end together."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
import radiance_team  # noqa: E402
from radiance_ball import ball  # noqa: E402

from medrecon.radiance.glance import step_seed  # noqa: E402
from medrecon.radiance.team import Buffers, Team  # noqa: E402


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Folder with what both processes left."""
    folder = tmp_path_factory.mktemp("team")
    torch.multiprocessing.spawn(radiance_team.work, (folder,), nprocs=2)
    return folder


def equal(a: Path, b: Path) -> bool:
    one, two = load_file(a), load_file(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_all_processes_end_with_the_same_field(done):
    """Parameters, occupancy grid and all other buffers, bit for bit; and process 0 has written them."""
    assert equal(done / "own0.safetensors", done / "own1.safetensors")
    assert equal(done / "own0.safetensors", done / "whole" / "field.safetensors")
    history = json.loads((done / "whole" / "history.json").read_text())
    assert history[-1]["step"] == 24 and sum("heldout_psnr_db" in h for h in history) == 3
    assert history[-1]["psnr_db"] > history[0]["psnr_db"] + 1


def test_an_interrupted_team_goes_on_bit_for_bit(done):
    assert equal(done / "whole" / "field.safetensors", done / "part" / "field.safetensors")
    assert not list((done / "part").glob("checkpoint*"))


def test_two_processes_are_one_with_twice_the_rays(done, tmp_path):
    """Where every process gets its half of the same rays, the mean of the gradients is the gradient of the mean."""
    radiance_team.fixed_rays(ball(tmp_path / "data", n=8, size=24), tmp_path / "one", Team(), 128)
    one, two = (load_file(f / "field.safetensors") for f in (tmp_path / "one", done / "fixed"))
    for k in one:
        torch.testing.assert_close(one[k], two[k], rtol=1e-4, atol=1e-7, msg=k)
    history = [json.loads((f / "history.json").read_text()) for f in (tmp_path / "one", done / "fixed")]
    losses = [[h["loss"] for h in entries] for entries in history]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0][-1] < losses[0][0]


def test_an_error_of_one_process_ends_both(done):
    error = "the cat is on the keyboard\n  try: take it off"
    assert (done / "failed1-1.txt").read_text() == f"InputError: {error}"
    assert (done / "failed1-0.txt").read_text() == f"TeamError: process 1 of 2: {error}"
    assert (done / "failed0-0.txt").read_text() == f"InputError: {error}"
    assert (done / "failed0-1.txt").read_text() == f"TeamError: process 0 of 2: {error}"


def test_processes_that_see_different_folders(done):
    for rank, kind in ((0, "TeamError: process 1 of 2: "), (1, "StageError: ")):
        text = (done / f"folders-{rank}.txt").read_text()
        assert text.startswith(kind + "it finds the training at step 0") and "process 0 at step 3" in text


def test_each_process_draws_rays_of_its_own():
    assert len({step_seed(s, k, r) for s in range(3) for k in range(3) for r in range(3)}) == 27
    assert step_seed(1, 2) == step_seed(1, 2, 0)


def test_buffers_that_were_written():
    module = torch.nn.Linear(2, 2)
    for name in ("still", "changed", "replaced"):
        module.register_buffer(name, torch.zeros(2))
    buffers = Buffers(module)
    assert buffers.written() == []
    module.changed.add_(1)
    module.replaced = torch.zeros(2)
    written = buffers.written()
    assert [b is x for b, x in zip(written, (module.changed, module.replaced))] == [True, True] and len(written) == 2
    buffers.note()
    assert buffers.written() == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_outlives_the_team(done):
    """One of gloo's would abort the process at its end."""
    for rank in range(2):
        assert "gloo" not in (done / f"threads-{rank}.txt").read_text()

# SPDX-License-Identifier: Apache-2.0
"""What each process of the tests of teams does; started by test_team.py."""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path

import torch
from safetensors.torch import save_file

import medrecon
from medrecon.errors import InputError, StageError
from medrecon.progress import Quiet
from medrecon.radiance import TrainingConfig
from medrecon.radiance.mipgrid import MipGridRenderer, MipGridRendererConfig
from medrecon.radiance.pictures import PixelPool
from medrecon.radiance.team import Team, process_group
from medrecon.radiance.train import train

sys.path.insert(0, str(Path(__file__).parent))
from radiance_ball import ball  # noqa: E402

GRID = {"width": 16, "levels": 4, "log2_size": 12, "finest": 64, "samples": 64, "occupancy_cells": 32,
        "samples_per_batch": 4096, "occupancy_every": 4}  # fmt: skip
TRAINING = TrainingConfig(iterations=24, max_size_px=24, evaluate_every=8, pyramid=())
FIXED = TrainingConfig(iterations=6, max_size_px=24, evaluate_every=0, depth_weight=0, pyramid=(), warmup_steps=0,
                       learning_rate=0.3, learning_rate_final=0.3)  # fmt: skip


class Plain(MipGridRenderer):
    """Nothing random in its loss, and an optimiser whose steps are as long as the gradients."""

    def optimiser(self, learning_rate):
        return torch.optim.SGD(self.parameters(), lr=learning_rate)

    def batch_size(self, asked):
        return asked

    def loss(self, rays, rgb, weight, step, generator):
        return ((self.render_basic(rays).rgb - rgb) ** 2).mean(), {}


def fixed_rays(data, folder: Path, team: Team, rays: int) -> None:
    """Trains ``Plain`` on pixels that the step alone decides, shared among the processes."""
    steps, usual = count(), PixelPool.draw

    def draw(pool, n, background_share, generator):
        every = torch.randperm(len(pool.colours), generator=torch.Generator().manual_seed(next(steps)))
        return every[: n * team.size].chunk(team.size)[team.rank]

    training = FIXED.model_copy(update={"rays_per_batch": rays})
    PixelPool.draw = draw
    try:
        with team:
            train(*data, Plain(MipGridRendererConfig(**GRID)), training, folder, 0, "cpu", Quiet(), team)
    finally:
        PixelPool.draw = usual


class Stop(Quiet):
    """Interrupts the training after some steps."""

    def __init__(self, steps: int):
        super().__init__()
        self.left = steps

    def advance(self, n: int = 1, **figures) -> None:
        self.left -= n
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def work(rank: int, folder: Path) -> None:
    """Everything in one start of the processes: that takes longest."""
    torch.set_num_threads(1)
    with process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2):
        together(rank, folder)
    threads = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").glob("*")]
    (folder / f"threads-{rank}.txt").write_text("\n".join(threads))


def together(rank: int, folder: Path) -> None:
    data = ball(folder / f"data{rank}", n=8, size=24)

    def whole(name: str, progress=None):
        renderer = medrecon.create("renderer", "mipgrid", **GRID)
        with Team.present() as team:
            train(*data, renderer, TRAINING, folder / name, 5, "cpu", progress or Quiet(), team)
        return renderer

    state = whole("whole").state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / f"own{rank}.safetensors")

    # Process 0 is told to stop; both do, after the same step.
    try:
        whole("part", Stop(11))
        raise AssertionError("nobody was interrupted")
    except KeyboardInterrupt:
        pass
    whole("part")
    fixed_rays(data, folder / "fixed", Team.present(), 64)

    # An error of process 1 in its eighth step, then one of process 0 after the last.
    for name, step, who in (("failed1", 8, 1), ("failed0", 24, 0)):
        renderer = medrecon.create("renderer", "mipgrid", **GRID)
        team, told = Team.present(), ""
        usual, calls = renderer.batch_size, []

        def batch_size(asked, usual=usual, calls=calls, step=step, who=who):
            calls.append(1)
            if rank == who and len(calls) == step:
                raise InputError("the cat is on the keyboard", "take it off")
            return usual(asked)

        renderer.batch_size = batch_size
        try:
            with team:
                train(*data, renderer, TRAINING, folder / name, 5, "cpu", Quiet(), team)
        except (InputError, StageError) as e:
            told = f"{type(e).__name__}: {e}"
        (folder / f"{name}-{rank}.txt").write_text(told)

    # Process 0 finds a checkpoint that process 1 does not see.
    try:
        whole("seen" if rank == 0 else "unseen", Stop(3))
    except KeyboardInterrupt:
        pass
    try:
        whole("seen" if rank == 0 else "unseen")
    except StageError as e:
        (folder / f"folders-{rank}.txt").write_text(f"{type(e).__name__}: {e}")

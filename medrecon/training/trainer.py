# SPDX-License-Identifier: Apache-2.0
"""The training loop that every network shares: schedule, checkpoints, curves, resuming.

A folder of a training holds ``state.pt`` (networks, optimiser, step, time: tensors and plain values), ``curves.jsonl``
(a line for every ``log_every`` steps and for every validation), ``tensorboard/`` where TensorBoard is installed, and
at the end ``summary.json`` and what the task exports. A training that is killed at any moment goes on from its last
checkpoint when the same command is given again, with the same curve: on a CPU with the same number of threads it is
equal to the bit when its length is given in steps.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from medrecon.errors import ConfigError, StageError
from medrecon.training.curves import Curves
from medrecon.training.settings import Schedule, flat

VERSION = 1


class Task(Protocol):
    """What is trained. All that is random in it follows from its seed and the step alone.

    Attributes:
        pairs_per_step: for the throughput in the curves.
    """

    pairs_per_step: int

    def identity(self) -> dict[str, Any]:
        """Flat settings, seed and key of the data: a checkpoint is resumed only where all of it is the same."""

    def networks(self) -> dict[str, nn.Module]:
        """Everything whose parameters and buffers belong into the checkpoint, by name, on the device."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """AdamW's groups: params, lr (its height in the schedule), weight_decay."""

    def loss(self, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (scalar with gradient) of step 0, 1, ... and figures for the curves (scalars, detached).

        Args:
            progress: 0..1, share of the training that has passed.
        """

    def validate(self) -> dict[str, float]:
        """Figures on the validation split; leaves the networks in training mode as it found them."""

    def conclude(self) -> dict[str, Any]:
        """What is decided on the validation split once the training is over, for the summary; plain JSON values."""

    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the trained weights; ``facts``, the summary, belong into their provenance."""


def train(
    task: Task,
    schedule: Schedule,
    out: Path,
    device: torch.device,
    say: Callable[[str], None],
    about: dict | None = None,
) -> dict:
    """Train until the schedule ends, or go on with the training that ``out`` holds. Returns the summary, also on disk.

    Args:
        about: further facts for the summary: the data and their licences.

    SIGINT ends the current step, writes a checkpoint and raises KeyboardInterrupt.

    Raises:
        ConfigError: ``out`` holds a training with other settings (they are named), or something else.
        StageError: the loss is not finite; ``state.pt`` keeps the last good state.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    networks = task.networks()
    groups = [g | {"height": g["lr"]} for g in task.parameter_groups()]
    optimizer = torch.optim.AdamW(groups, betas=schedule.betas, fused=device.type == "cuda")
    state = _State(out / "state.pt", networks, optimizer, _fixed(schedule) | task.identity())
    if state.load(device):
        say(f"going on from step {state.step} of the training in {out.name}")
    curves = Curves(out, state.step)
    parameters = [p for g in groups for p in g["params"]]
    begun, saved = time.monotonic() - state.seconds, time.monotonic()
    told, half = -math.inf, takes_half(schedule.precision, device)
    now = lambda: time.monotonic() - begun

    def progress() -> float:
        return state.step / schedule.steps if schedule.steps else now() / (60 * schedule.minutes)

    def validate() -> None:
        figures = task.validate()
        state.validation = {k: float(v) for k, v in figures.items()}
        curves.write(state.step, now(), "validation", state.validation)
        say(f"step {state.step}, validation: " + _figures(state.validation))

    with curves, _interrupt() as interrupted:
        while (share := progress()) < 1 and not state.finished:
            for group in optimizer.param_groups:
                group["lr"] = group["height"] * rate(share, schedule)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss, figures = task.loss(state.step, share)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, schedule.clip)
            optimizer.step()
            state.step += 1
            state.add({"loss": loss.detach(), "gradient": norm} | figures)
            if state.step % schedule.log_every == 0:
                mean, steps, seconds = state.mean(now())
                mean["pairs_per_s"] = steps * task.pairs_per_step / seconds
                mean["rate"] = rate(share, schedule)
                curves.write(state.step, now(), "train", mean)
                if now() - told > 5:
                    told = now()
                    left = now() * (1 / max(progress(), 1e-9) - 1)
                    say(f"step {state.step}, {100 * share:.1f} %, {_clock(left)} left: " + _figures(mean))
            due = int(progress() * schedule.validations)
            if due > state.validations and progress() < 1:
                state.validations = due
                validate()
            if interrupted() or time.monotonic() - saved > schedule.checkpoint_s:
                state.save(now())
                saved = time.monotonic()
            if interrupted():
                say(f"interrupted: step {state.step} is saved, the same command goes on from it")
                raise KeyboardInterrupt
        if not state.finished:
            state.check()
            validate()
            state.finished = True
            state.save(now())
    summary = {
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "pairs": state.step * task.pairs_per_step,
        "pairs_per_s": state.step * task.pairs_per_step / max(state.seconds, 1e-9),
        "validation": state.validation,
        **task.conclude(),
        "settings": state.identity,
        "machine": machine(device),
        **(about or {}),
    }
    _write_json(out / "summary.json", summary)
    task.export(out, summary)
    return summary


def rate(progress: float, schedule: Schedule) -> float:
    """Share of the learning rate's height at ``progress``: linear warm-up, then half a cosine (arXiv 1608.03983)."""
    if progress < schedule.warmup:
        return max(progress / schedule.warmup, 1e-3)
    angle = math.pi * min(1.0, (progress - schedule.warmup) / (1 - schedule.warmup))
    return schedule.final_rate + (1 - schedule.final_rate) * (1 + math.cos(angle)) / 2


def takes_half(precision: str, device: torch.device) -> bool:
    """Whether convolutions and products run in bfloat16: on a GPU, and on a CPU that has instructions for it, where
    (channels last) a step takes a third to a fifth of the time."""
    if precision == "auto":
        return device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return precision == "bf16"


def machine(device: torch.device) -> dict[str, Any]:
    """What the training ran on, without names of machines or people."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _fixed(schedule: Schedule) -> dict[str, Any]:
    """What of the schedule shapes the curve; how often a checkpoint is written does not."""
    return {k: v for k, v in flat(schedule, "schedule.").items() if k != "schedule.checkpoint_s"}


class _State:
    """What a checkpoint holds; every change of it between two steps is in the next file or in none."""

    def __init__(self, path: Path, networks: dict[str, nn.Module], optimizer: torch.optim.Optimizer, identity: dict):
        self.path, self.networks, self.optimizer, self.identity = path, networks, optimizer, identity
        self.step, self.seconds, self.validations, self.finished = 0, 0.0, 0, False
        self.validation: dict[str, float] = {}
        self.sums: dict[str, Tensor] = {}
        self.summed, self.since = 0, 0.0

    def add(self, figures: dict[str, Tensor]) -> None:
        """Sum up figures on their device, without waiting for it. A figure that a step does not have counts as 0."""
        for name, value in figures.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.summed += 1

    def check(self) -> None:
        for name, value in self.sums.items():
            if name in ("loss", "gradient") and not math.isfinite(float(value)):
                raise StageError(
                    f"the {name} is not finite within the last {self.summed} steps before step {self.step}",
                    f"lower the learning rate; {self.path.name} keeps the last good state",
                )

    def mean(self, now: float) -> tuple[dict[str, float], int, float]:
        """Means since the last call, the steps behind them and the seconds they took."""
        self.check()
        steps, seconds = self.summed, max(now - self.since, 1e-9)
        out = {k: float(v) / steps for k, v in self.sums.items()}
        self.sums, self.summed, self.since = {}, 0, now
        return out, steps, seconds

    def save(self, now: float) -> None:
        self.check()
        self.seconds = now
        data = {
            "version": VERSION,
            "identity": self.identity,
            "networks": {k: n.state_dict() for k, n in self.networks.items()},
            "optimizer": self.optimizer.state_dict(),
            "plain": {k: getattr(self, k) for k in _PLAIN},
            "sums": self.sums,
        }
        partial = self.path.with_suffix(".partial")
        with open(partial, "wb") as file:
            torch.save(data, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path)

    def load(self, device: torch.device) -> bool:
        """Take over the checkpoint, if there is one."""
        if not self.path.exists():
            return False
        try:
            data = torch.load(self.path, map_location=device, weights_only=True)
            version, before = data["version"], data["identity"]
        except Exception as e:  # a damaged file raises whatever the parser stumbled over
            raise ConfigError(f"{self.path} is not a checkpoint of a training: {e}", "give another --out") from e
        if version != VERSION:
            raise ConfigError(f"{self.path}: version {version!r}, this medrecon reads {VERSION}", "give another --out")
        other = [k for k in sorted(before.keys() | self.identity.keys()) if before.get(k) != self.identity.get(k)]
        if other:
            what = "; ".join(f"{k} was {before.get(k)!r}, is {self.identity.get(k)!r}" for k in other)
            raise ConfigError(
                f"{self.path.parent} holds a training with other settings: {what}",
                "give the settings it began with, or another --out",
            )
        for name, network in self.networks.items():
            network.load_state_dict(data["networks"][name])
        self.optimizer.load_state_dict(data["optimizer"])
        for name, value in data["plain"].items():
            setattr(self, name, value)
        self.sums = data["sums"]
        return True


_PLAIN = ("step", "seconds", "validations", "finished", "validation", "summed", "since")


@contextmanager
def _interrupt() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT into a question, in the main thread; elsewhere it is never asked for."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _write_json(path: Path, data: dict) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _figures(figures: dict[str, float]) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in figures.items())


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}"

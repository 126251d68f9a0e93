# SPDX-License-Identifier: Apache-2.0
"""The state of a training, so that a killed one goes on as if nothing had happened."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medrecon.errors import InputError
from medrecon.radiance.field_files import read_tensors, sha256, write_tensors
from medrecon.radiance.renderer import Renderer
from medrecon.types import Rigid3
from medrecon.types.storage import read_json, write_json

SCHEMA = 2
NAME = "checkpoint.json"
MOST_SHARE = 0.02  # of the time goes into checkpoints, where their interval is not given,
LEAST_SECONDS, MOST_SECONDS = 5.0, 60.0  # which then lies between these


@dataclass(slots=True)
class Trace:
    """What a training has to say about its past.

    Attributes:
        step: optimiser steps done.
        seconds: time spent, over all sittings.
        history: entries of history.json.
        window: sums since the last entry: loss, mean squared error, steps.
        poses: of the training pictures by frame id, camera from field; empty where they are not refined.
        pose_rounds: refinements of them that are done.
    """

    step: int = 0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    window: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    poses: dict[int, Rigid3] = field(default_factory=dict)
    pose_rounds: int = 0


def _optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments by position of the parameter. Empty before the first step."""
    out = {}
    for i, p in enumerate(p for g in optimiser.param_groups for p in g["params"]):
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = optimiser.state[p].get(key) if p in optimiser.state else None
            if value is None:
                value = torch.zeros(()) if key == "step" else torch.zeros_like(p)
            out[f"optimiser.{i}.{key}"] = value
    return out


def _tensors(renderer: Renderer, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {**{f"field.{k}": v for k, v in renderer.state_dict().items()}, **_optimiser_state(optimiser)}


class Checkpoints:
    """Saves a training now and then. The training waits for a copy in memory; a thread of its own writes that.

    Leaving the block waits for what is still being written.

    Args:
        folder: where they go; a new one replaces the old one when it is whole.
        seconds: between two of them; None: ``LEAST_SECONDS``, or longer where that would cost more than ``MOST_SHARE``
            of the time, up to ``MOST_SECONDS``.

    Raises:
        OSError: from any method: the last one could not be written.
    """

    def __init__(
        self, folder: Path, renderer: Renderer, optimiser: torch.optim.Optimizer, seed: int, seconds: float | None
    ):
        self._folder, self._renderer, self._optimiser, self._seed = folder, renderer, optimiser, seed
        self._given = seconds
        self._copies: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[float] | None = None
        self._last = time.monotonic()
        self.cost_s = 0.0  # of the last one: what the training waited and what the thread computed

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()

    @property
    def interval_s(self) -> float:
        """Seconds from the last one to the next."""
        if self._given is not None:
            return self._given
        return min(max(self.cost_s / MOST_SHARE, LEAST_SECONDS), MOST_SECONDS)

    def save_if_due(self, trace: Trace) -> None:
        if self._writing is not None and self._writing.done():
            self.wait()
        if time.monotonic() - self._last >= self.interval_s:
            self.save(trace)

    def save(self, trace: Trace) -> None:
        begun = time.monotonic()
        self.wait()
        copies = {}
        for name, tensor in _tensors(self._renderer, self._optimiser).items():
            kept = self._copies.get(name)  # fresh memory costs more than the copying
            if kept is None or kept.shape != tensor.shape:
                kept = torch.empty(tensor.shape, dtype=tensor.dtype)
            copies[name] = kept.copy_(tensor.detach())
        self._copies = copies
        data = {
            "schema": SCHEMA,
            **self._renderer.describe(),
            "seed": self._seed,
            "step": trace.step,
            "seconds": trace.seconds,
            "window": list(trace.window),
            "history": list(trace.history),
            "poses": {str(i): pose.matrix().tolist() for i, pose in trace.poses.items()},
            "pose_rounds": trace.pose_rounds,
        }
        self.cost_s = time.monotonic() - begun
        self._writing = self._thread.submit(_write, self._folder, self._copies, data)
        self._last = time.monotonic()

    def wait(self) -> None:
        """Until the last one is on the disk."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self.cost_s += writing.result()


def _write(folder: Path, tensors: dict[str, Tensor], data: dict) -> float:
    """The tensors get a name of their own; checkpoint.json, renamed into place last, says which one holds.

    Returns:
        seconds that were spent computing, not waiting for the disk.
    """
    begun = time.thread_time()
    path = folder / f"checkpoint-{data['step']:08d}.safetensors"
    data = {**data, "tensors": path.name, "sha256": write_tensors(path, tensors)}
    write_json(folder / NAME, data)
    for old in folder.glob("checkpoint-*.safetensors"):
        if old != path:
            old.unlink(missing_ok=True)
    return time.thread_time() - begun


def load(folder: Path, renderer: Renderer, optimiser: torch.optim.Optimizer, seed: int) -> Trace | None:
    """Restores field and optimiser in place; None when there is no checkpoint.

    Raises:
        InputError: the checkpoint is damaged or belongs to another training. Nothing has been changed then.
    """
    if not (folder / NAME).is_file():
        return None
    data = read_json(folder / NAME)
    try:
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']}, this version reads {SCHEMA}")
        if {k: data[k] for k in ("name", "options")} != renderer.describe() or int(data["seed"]) != seed:
            raise ValueError("it was made with another renderer, other options or another seed")
        window = [float(x) for x in data["window"]]
        history = [dict(h) for h in data["history"]]
        poses = {int(i): Rigid3.from_matrix(np.array(m)) for i, m in data["poses"].items()}
        trace = Trace(int(data["step"]), float(data["seconds"]), history, window, poses, int(data["pose_rounds"]))
        path = folder / Path(str(data["tensors"])).name  # a name, never a path out of the folder
        if trace.step < 0 or len(window) != 3:
            raise ValueError("step or window make no sense")
        if not path.is_file() or sha256(path) != data["sha256"]:
            raise ValueError("its tensors are missing or damaged")
    except (AttributeError, IndexError, InputError, KeyError, TypeError, ValueError) as e:
        raise InputError(f"{folder / NAME} cannot be used: {e}", "remove it to train from the start") from e
    found = read_tensors(path, _tensors(renderer, optimiser))
    device = next(renderer.parameters()).device
    renderer.load_state_dict({k.removeprefix("field."): v for k, v in found.items() if k.startswith("field.")})
    for i, p in enumerate(p for g in optimiser.param_groups for p in g["params"]):
        state = {k: found[f"optimiser.{i}.{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
        if state["step"] > 0:
            optimiser.state[p] = {k: v.to(device) if k != "step" else v for k, v in state.items()}
    return trace


def remove(folder: Path) -> None:
    """After the finished field is in place."""
    (folder / NAME).unlink(missing_ok=True)
    for old in [*folder.glob("checkpoint-*.safetensors"), *folder.glob(".checkpoint*.partial")]:
        old.unlink(missing_ok=True)

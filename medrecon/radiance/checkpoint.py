# SPDX-License-Identifier: Apache-2.0
"""The state of a training, so that a killed one goes on as if nothing had happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from medrecon.errors import InputError
from medrecon.radiance.field_files import read_tensors, sha256, write_tensors
from medrecon.radiance.renderer import Renderer
from medrecon.types.storage import read_json, write_json

SCHEMA = 1
NAME = "checkpoint.json"


@dataclass(slots=True)
class Trace:
    """What a training has to say about its past.

    Attributes:
        step: optimiser steps done.
        seconds: time spent, over all sittings.
        history: entries of history.json.
        window: sums since the last entry: loss, mean squared error, steps.
    """

    step: int = 0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    window: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])


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


def save(folder: Path, renderer: Renderer, optimiser: torch.optim.Optimizer, trace: Trace, seed: int) -> None:
    """The tensors get a name of their own; checkpoint.json, renamed into place last, says which one holds."""
    tensors = folder / f"checkpoint-{trace.step:08d}.safetensors"
    write_tensors(tensors, _tensors(renderer, optimiser))
    data = {
        "schema": SCHEMA,
        **renderer.describe(),
        "seed": seed,
        "step": trace.step,
        "seconds": trace.seconds,
        "window": trace.window,
        "history": trace.history,
        "tensors": tensors.name,
        "sha256": sha256(tensors),
    }
    write_json(folder / NAME, data)
    for old in folder.glob("checkpoint-*.safetensors"):
        if old != tensors:
            old.unlink(missing_ok=True)


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
        trace = Trace(int(data["step"]), float(data["seconds"]), [dict(h) for h in data["history"]], window)
        path = folder / Path(str(data["tensors"])).name  # a name, never a path out of the folder
        if trace.step < 0 or len(window) != 3:
            raise ValueError("step or window make no sense")
        if not path.is_file() or sha256(path) != data["sha256"]:
            raise ValueError("its tensors are missing or damaged")
    except (KeyError, TypeError, ValueError) as e:
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

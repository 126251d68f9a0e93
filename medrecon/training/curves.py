# SPDX-License-Identifier: Apache-2.0
"""The curves of a training: one line of JSON for each point, and TensorBoard where it is installed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Curves:
    """Appends to ``folder/curves.jsonl``: {"step", "seconds", "train" or "validation": {name: value}}. For ``with``.

    Args:
        step: of the checkpoint from which the training goes on; lines beyond it belong to lost steps and are dropped.
    """

    def __init__(self, folder: Path, step: int):
        path = folder / "curves.jsonl"
        kept = [line for line in read_curves(folder) if line["step"] <= step] if step else []
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, path)
        self._file = open(path, "a", encoding="utf-8")
        self._board = _tensorboard(folder / "tensorboard", step)

    def write(self, step: int, seconds: float, kind: str, figures: dict[str, float]) -> None:
        """Add a point, at once readable by others."""
        self._file.write(json.dumps({"step": step, "seconds": round(seconds, 2), kind: figures}) + "\n")
        self._file.flush()
        if self._board:
            for name, value in figures.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> "Curves":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if self._board:
            self._board.close()


def read_curves(folder: Path) -> list[dict[str, Any]]:
    """Every whole line of a training's curves; [] where there are none."""
    path = Path(folder) / "curves.jsonl"
    if not path.exists():
        return []
    out = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            out.append(json.loads(line))
        except ValueError:  # the process was killed while it wrote this line
            continue
    return out


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step)

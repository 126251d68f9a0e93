# SPDX-License-Identifier: Apache-2.0
"""What checkpoints cost a training: part of its time, at the default settings.

    python benchmarks/checkpoint_cost.py --out DIR [--renderers mipgrid mipnerf] [--seconds 40] [--every SECONDS]

The demo's chest CT, 24 pictures of 256 x 256 with true poses, seed 0; each renderer trains for --seconds. A checkpoint
costs what the training waits for the copy, and what its steps take longer while the copy is being written: their mean
against that of the steps in the second before and the second after. The share is the sum of both over the whole time.
--every sets the interval in place of the program's own choice. With two quiet cores the run takes 1 minute 45 seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import medrecon
from medrecon.progress import Quiet
from medrecon.radiance import TrainingConfig, checkpoint
from medrecon.radiance.train import train

sys.path.insert(0, str(Path(__file__).parent))
import true_pose_scene as scenes

VIEWS, SIZE = 24, 256


@dataclass
class Saved:
    """One checkpoint: when the training waited for it, when it was whole, its size."""

    begin: float
    copied: float
    whole: float = 0.0
    mb: float = 0.0


@dataclass
class Watch(Quiet):
    """Progress that notes when steps end, and what checkpoints were saved meanwhile."""

    ends: list[float] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def advance(self, n: int = 1, **figures: float | str) -> None:
        self.ends.append(time.monotonic())

    def checkpoints(self) -> type[checkpoint.Checkpoints]:
        """As the trainer's own, but noted."""
        watch = self

        class Watched(checkpoint.Checkpoints):
            def save(self, trace: checkpoint.Trace) -> None:
                saved = Saved(time.monotonic(), 0.0)
                super().save(trace)
                saved.copied = time.monotonic()
                watch.saved.append(saved)
                self._writing.add_done_callback(lambda _: watch.whole(saved, self._folder))

        return Watched

    def whole(self, saved: Saved, folder: Path) -> None:
        saved.whole = time.monotonic()
        saved.mb = sum(p.stat().st_size for p in folder.glob("checkpoint*")) / 1e6

    def figures(self) -> dict:
        """Seconds of waiting and of slower steps, and their share of the time."""
        ends = np.array(self.ends)
        begins = ends[:-1].copy()
        for s in self.saved:  # the step after a checkpoint begins when the training goes on
            k = np.searchsorted(ends, s.begin) - 1
            if k < len(begins):
                begins[k] = s.copied
        ends, took = ends[1:], ends[1:] - begins
        slower = []
        for s in self.saved:
            during = (ends > s.copied) & (begins < s.whole)
            near = ((ends < s.begin) & (ends > s.begin - 1)) | ((begins > s.whole) & (begins < s.whole + 1))
            slower.append(float(took[during].sum() - during.sum() * took[near].mean()))
        waits = [s.copied - s.begin for s in self.saved]
        total = float(ends[-1] - begins[0])
        times = [s.begin for s in self.saved]
        return {
            "seconds": total,
            "steps": len(took),
            "checkpoints": len(self.saved),
            "interval_s": float(np.mean(np.diff(times))) if len(times) > 1 else None,
            "file_mb": self.saved[-1].mb if self.saved else None,
            "wait_ms": 1e3 * float(np.mean(waits)) if waits else None,
            "slower_ms": 1e3 * float(np.mean(slower)) if slower else None,
            "writing_ms": 1e3 * float(np.mean([s.whole - s.copied for s in self.saved])) if waits else None,
            "share_percent": 100 * (sum(waits) + sum(slower)) / total,
        }


def measure(problem: scenes.Problem, name: str, seconds: float, every: float | None, folder: Path) -> dict:
    """Trains one renderer."""
    watch = Watch()
    training = TrainingConfig(max_size_px=SIZE, minutes=seconds / 60, checkpoint_seconds=every)
    original, checkpoint.Checkpoints = checkpoint.Checkpoints, watch.checkpoints()
    try:
        train(problem.frames, problem.sparse, medrecon.create("renderer", name), training, folder, 0, "cpu", watch)
    finally:
        checkpoint.Checkpoints = original
    return {"renderer": name, **watch.figures()}


def table(rows: list[dict], about: dict) -> str:
    """Markdown."""
    lines = [
        f"Cost of checkpoints; {about['machine']}, {about['threads']} threads, {SIZE} x {SIZE} pictures.",
        "",
        "| renderer | trained s | steps | checkpoints | every s | file MB | wait ms | slower steps ms | writing ms "
        "| share of the time % |",
        "|" + "---|" * 10,
    ]
    shown = ("interval_s", "file_mb", "wait_ms", "slower_ms", "writing_ms")
    for r in rows:
        numbers = " | ".join("–" if r[k] is None else f"{r[k]:.1f}" for k in shown)
        lines.append(
            f"| {r['renderer']} | {r['seconds']:.0f} | {r['steps']} | {r['checkpoints']} | {numbers} "
            f"| {r['share_percent']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measures and writes DIR/checkpoint_cost.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--renderers", nargs="+", default=["mipgrid", "mipnerf"])
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--every", type=float, help="seconds between checkpoints; default: as the program chooses")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    around = {"kind": "orbit", "loops": 2, "elevation_deg": (0, 25), "radius_factor": 0.85}
    problem = scenes.make(
        options.out / "views", path="builtin:chest-ct", n_views=VIEWS, image_size_px=(SIZE, SIZE), camera_path=around
    )
    rows = []
    for name in options.renderers:
        folder = options.out / "work" / f"{name}-{time.time_ns()}"  # anew: nothing to go on from
        rows.append(measure(problem, name, options.seconds, options.every, folder))
        print(json.dumps(rows[-1]), flush=True)
    about = {"schema": 1, **scenes.machine(), "every": options.every}
    (options.out / "checkpoint_cost.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    (options.out / "checkpoint_cost.md").write_text(table(rows, about))
    print(table(rows, about))
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Pictures of a volume with their true poses, for benchmarks of radiance fields: nothing is recovered from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import medrecon
from medrecon import ops
from medrecon.ingest.views import ViewsSource, ViewsSourceConfig
from medrecon.progress import Quiet
from medrecon.radiance import Renderer, Scene, TrainingConfig, load_field
from medrecon.radiance.train import train
from medrecon.runfolder import RunFolder
from medrecon.types import FrameSet, SparseModel, Truth
from medrecon.types.storage import read_json, read_npz

POINTS_PER_VIEW = 200


@dataclass(frozen=True)
class Problem:
    """Attributes:
    frames, truth: the pictures and what is known of them; one reconstruction unit is a millimetre.
    sparse: true cameras and poses. Its points, from the true depth, only say how large the scene is.
    """

    frames: FrameSet
    truth: Truth
    sparse: SparseModel


def make(folder: Path, **options) -> Problem:
    """Renders the views (those already in ``folder`` are kept); ``options`` are those of the views source."""
    frames = ViewsSource(ViewsSourceConfig(**options)).read(folder, Quiet())
    truth = Truth.load(frames.truth_path)
    ids = [f.frame_id for f in frames.frames]
    points = np.concatenate([_points(truth, i) for i in ids])
    n = len(points)
    sparse = SparseModel(
        {i: truth.cameras[i] for i in ids},
        {i: truth.cam_from_world_mm[i] for i in ids},
        points,
        np.full((n, 3), 128, np.uint8),
        np.zeros(n),
        np.repeat(np.array(ids, np.int64), POINTS_PER_VIEW)[:n],
        np.zeros(n, np.int32),
        np.arange(n + 1, dtype=np.int64),
    )
    return Problem(frames, truth, sparse.validate())


def _points(truth: Truth, frame_id: int) -> np.ndarray:
    """float64 [POINTS_PER_VIEW, 3], world mm."""
    depth = truth_depth(truth, frame_id)
    row, column = np.nonzero(depth)
    pick = np.random.default_rng([0, frame_id]).integers(len(row), size=POINTS_PER_VIEW)
    row, column = row[pick], column[pick]
    rays = truth.cameras[frame_id].unproject(np.stack([column + 0.5, row + 0.5], -1))
    return truth.cam_from_world_mm[frame_id].inverse().apply(rays * depth[row, column, None])


def truth_depth(truth: Truth, frame_id: int) -> np.ndarray:
    """float32 [H, W], z-depth in mm, 0 = nothing hit."""
    return read_npz(truth.depth_paths[frame_id])["depth_mm"]


def trained(
    problem: Problem, folder: Path, renderer: str, options: dict, training: TrainingConfig, seed: int
) -> tuple[Renderer, Scene, dict]:
    """A field trained below ``folder`` (anew), its scene, and what its training took: steps, seconds."""
    out = folder / "stages" / "radiance"
    for old in out.glob("*"):
        old.unlink()
    train(problem.frames, problem.sparse, medrecon.create("renderer", renderer, **options), training, out, seed, "cpu",
          Quiet())  # fmt: skip
    field, scene = load_field(RunFolder(folder))
    last = read_json(out / "history.json")[-1]
    return field, scene, {"steps": last["step"], "seconds": round(last["seconds"], 1)}


def machine() -> dict:
    """What stands beside every figure."""
    return {
        "machine": "2 CPU cores (AMD EPYC)",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
        "ops": ops.backend().name,
    }

# SPDX-License-Identifier: Apache-2.0
"""Judges trained weights on subjects that no training saw, where the training ran: torch and numpy alone.

The figures are those of the validation (``validation``, ``matching_trial``), of pairs drawn from the shards of another
split. ``medrecon bench matching``, which needs an installation, compares with other methods on other pictures.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medrecon.errors import InputError
from medrecon.features.superpoint_network import SuperpointNetwork
from medrecon.matching.superglue_network import SuperglueNetwork
from medrecon.training import validation
from medrecon.training.keypoints import DETECTORS
from medrecon.training.matching_trial import MatchingTrial
from medrecon.training.pairs import Mix, draw_pairs, step_seed
from medrecon.training.pool_builder import build_pools
from medrecon.training.shards import SPLITS, read_shards
from medrecon.training.superglue import matcher
from medrecon.training.trainer import machine
from medrecon.training.weights_io import load_trained

RATIO = 0.85
_BATCH = 8


@dataclass(frozen=True)
class Trial:
    """How much is looked at.

    Attributes:
        views: rendered from the split's shards.
        pairs: of each kind: seen twice, and two views.
        size: (height, width) px.
        keypoints: of each picture.
        seed: of everything random.
    """

    views: int = 400
    pairs: int = 128
    size: tuple[int, int] = (240, 320)
    keypoints: int = 512
    seed: int = 0


def evaluate(
    data: Path,
    split: str,
    superpoint: Path,
    superglue: Path | None,
    trial: Trial,
    device: torch.device,
    say: Callable[[str], None],
    cache: Path | None = None,
) -> dict[str, Any]:
    """Figures of the weights and of their baselines.

    Args:
        cache: folder of rendered pools; None: one below the folder for temporary files.

    Returns:
        "keypoints": {kind: {method: figures}} of SuperPoint with mutual nearest neighbours and of classical blobs;
        "matching": {method: figures} with SuperPoint's descriptors on keypoints of its own ("superglue") and on corners
        ("superglue on shi-tomasi"); the subjects, the trial, SuperGlue's own threshold and the machine.

    Raises:
        InputError: the shards have nothing of this split.  AssetError: weights that cannot be read.
    """
    (pool,) = build_pools(data, [(split, trial.views)], trial.seed, device, say, cache)
    network, digest = load_trained(superpoint, SuperpointNetwork, device)
    finds = {
        "superpoint": (validation.learned(network, trial.keypoints), validation.nearest()),
        "superpoint + ratio": (validation.learned(network, trial.keypoints), validation.nearest(RATIO)),
        "blobs": (validation.classical(trial.keypoints), None),
    }
    keypoints: dict[str, dict[str, Any]] = {}
    kinds = {"flat": Mix(0, 1, 0, 0), "views": Mix(1, 0, 0, 0)} if len(pool.solid_views) else {"flat": Mix(0, 1, 0, 0)}
    for kind, mix in kinds.items():
        sizes = [min(_BATCH, trial.pairs - start) for start in range(0, trial.pairs, _BATCH)]
        batches = [
            draw_pairs(pool, n, trial.size, step_seed(trial.seed, i), mix, pinhole=kind == "views")
            for i, n in enumerate(sizes)
        ]
        keypoints[kind] = {
            name: validation.judge(batches, find, match, poses=kind == "views" and match is not None)
            for name, (find, match) in finds.items()
        }
        for name, figures in keypoints[kind].items():
            say(f"{kind}, {name}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
    del batches
    matchers = {"nearest neighbours": validation.nearest(), "nearest neighbours + ratio": validation.nearest(RATIO)}
    threshold = None
    if superglue is not None:
        glue, _ = load_trained(superglue, SuperglueNetwork, device)
        threshold = glue.config.match_threshold
        matchers["superglue"] = matcher(glue, trial.size, threshold)
    matching = {}
    for detector in DETECTORS:
        shown = MatchingTrial(network, pool, trial.pairs, trial.keypoints, trial.size, trial.seed, detector)
        where = "" if detector == DETECTORS[0] else f" on {detector}"
        matching |= {name + where: shown.judge(match) for name, match in matchers.items()}
        del shown  # its pictures
    for name, figures in matching.items():
        say(f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
    return {
        "schema": 1,
        "split": split,
        "subjects": sorted({s.meta.subject for s in read_shards(data, split)}),
        "superpoint": digest,
        "match_threshold": threshold,
        "trial": vars(trial) | {"size": list(trial.size)},
        "keypoints": keypoints,
        "matching": matching,
        "machine": machine(device),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``python -m medrecon.training evaluate``."""
    parser.add_argument("--data", type=Path, required=True, help="folder of shards")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--superpoint", type=Path, required=True, help="superpoint.safetensors")
    parser.add_argument("--superglue", type=Path, help="superglue.safetensors; without, SuperPoint alone is judged")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    for name in ("views", "pairs", "keypoints", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Trial, name), help=f"default {getattr(Trial, name)}")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--cache", type=Path, help="folder that keeps rendered views")


def from_arguments(arguments: argparse.Namespace, device: torch.device, say: Callable[[str], None]) -> None:
    """What ``add_arguments`` read: evaluate and write the JSON file.

    Raises:
        InputError: the file cannot be written, before any work.
    """
    a = arguments
    partial = a.json.with_name(f".{a.json.name}.partial")
    try:
        a.json.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    except OSError as e:
        raise InputError(f"{a.json} cannot be written: {e.strerror}", "give another --json") from e
    trial = Trial(views=a.views, pairs=a.pairs, keypoints=a.keypoints, seed=a.seed)
    results = evaluate(a.data, a.split, a.superpoint, a.superglue, trial, device, say, a.cache)
    partial.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, a.json)

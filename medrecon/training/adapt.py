# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes SuperPoint weights on a user's own pictures, without labels, and says whether it helped.

Steps, each kept on disk so that the same command goes on after an interruption: read and split the pictures
(``adapt_data``), measure the starting weights on the held-out frames (``adapt_check``), label the others by homographic
adaptation (``adapt_labels``), train (``adapt_task``), export with the licence that the starting weights impose
(``origin``), measure again. The pictures are removed at the end.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medrecon.errors import ConfigError, StageError
from medrecon.features.superpoint_network import SuperpointNetwork
from medrecon.networks.checkpoint import load_network, save_network
from medrecon.networks.device import place
from medrecon.networks.weights import weights_path
from medrecon.pipeline.display import Display
from medrecon.training import adapt_check
from medrecon.training.adapt_check import CheckSettings
from medrecon.training.adapt_data import Frames, load_grey, read_frames
from medrecon.training.adapt_labels import label_points, mean_probability
from medrecon.training.adapt_report import report, results_of
from medrecon.training.adapt_task import AdaptTask, Labelled, LearnSettings
from medrecon.training.origin import Origin, origin_of
from medrecon.training.settings import Schedule, flat
from medrecon.training.trainer import takes_half, train
from medrecon.types import FrameSet
from medrecon.types.storage import read_npz, write_bytes_atomic, write_json, write_npz

WEIGHTS = "superpoint-adapted"
# Held-out pictures whose losses are watched while it trains.
WATCHED = 8
SCHEDULE = Schedule(minutes=10.0, log_every=10, validations=6)


@dataclass(frozen=True)
class AdaptSettings:
    """What is read, learnt and checked.

    Attributes:
        size_px: longest side of the pictures.
        frames: that are learnt from, at most.
        held_out: share of the frames, the last in time, that are only looked at.
        apart: share between the two sides that neither uses.
        learn, check: see there.
    """

    size_px: int = 640
    frames: int = 50
    held_out: float = 0.3
    apart: float = 0.05
    learn: LearnSettings = field(default_factory=LearnSettings)
    check: CheckSettings = field(default_factory=CheckSettings)

    def __post_init__(self) -> None:
        if self.size_px < 64 or self.frames < 4:
            raise ConfigError("size_px must be at least 64 and frames at least 4", "correct the settings")
        if not (0 < self.held_out < 1 and 0 <= self.apart < 1 - self.held_out):
            raise ConfigError("held_out and apart are shares that must leave something to learn from", "held_out: 0.3")


def adapt(
    data: Path,
    weights: str | Path,
    out: Path,
    settings: AdaptSettings,
    schedule: Schedule,
    options: dict[str, Any],
    device: str,
    display: Display,
) -> dict[str, Any]:
    """Run all steps, or what is left of them, and return the content of ``out``/results.json.

    Args:
        data: video, DICOM, or a folder of pictures.
        weights: name of an asset, or a checkpoint file.
        options: of the source that reads the pictures, such as {"start_s": 10}.
        device: "auto", "cpu" or "cuda".

    Raises:
        InputError: pictures that cannot be used, or too few.
        AssetError: the starting weights are missing or not permitted.
        ConfigError: ``out`` holds an adaptation with other settings.
        StageError: the training fails.
    """
    where, _ = place("adapt", device, "auto")
    origin = origin_of(weights)
    network = load_network(weights_path(weights), SuperpointNetwork)
    done = out / "results.json"
    _claim(out, flat(settings) | flat(schedule, "schedule.") | {"weights": origin.sha256, "options": repr(options)})
    if done.is_file():
        display.say(f"{out.name} is finished; give another --out to do it again")
        return json.loads(done.read_text(encoding="utf-8"))
    if origin.derived_license != "Apache-2.0":
        display.say(f"licence of the adapted weights, as they derive from {origin.name}: {origin.derived_license}")

    work = out / "pictures"
    with display.during("pictures", "read the pictures"):
        frames = read_frames(
            data, work, settings.size_px, settings.frames, settings.held_out, settings.apart, options, display
        )
        display.say(f"{frames.n_read} frames: {len(frames.learn)} to learn from, {len(frames.held_out)} held out")
    with display.during("before", "measure the starting weights"):
        before = _measured(out / "before.json", frames.held_out, weights, device, settings, display)
    path = out / f"{WEIGHTS}.safetensors"
    with display.during("labels", "label by homographic adaptation"):
        half = takes_half(schedule.precision, where)
        network = network.to(where, memory_format=torch.channels_last)
        learn = _labelled(out / "labels.npz", network, frames.learn, settings.learn, half, display)
        held = _labelled(out / "labels_held_out.npz", network, frames.held_out, settings.learn, half, display, WATCHED)
    provenance = _provenance(frames, origin, settings)

    def export(folder: Path, facts: dict[str, Any]) -> None:
        network.to(memory_format=torch.contiguous_format)
        save_network(path, network, origin.derived_license, provenance | {"training": facts})

    with display.during("training", "train"):
        identity = {"weights": origin.sha256, "pictures": _digest(learn)}
        summary = train(
            AdaptTask(network, learn, held, settings.learn, identity, export), schedule, out, where, display.say
        )
    with display.during("after", "measure the adapted weights"):
        after = _measured(out / "after.json", frames.held_out, path, device, settings, display)
    results = results_of(frames, origin, settings.learn.seed, summary, before, after)
    write_json(done, results)
    write_bytes_atomic(out / "results.md", report(results).encode())
    shutil.rmtree(work, ignore_errors=True)
    return results


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder of an adaptation with other settings before any work is done."""
    path = out / "adapt.json"
    identity = json.loads(json.dumps(identity))
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [k for k in sorted(before.keys() | identity.keys()) if before.get(k) != identity.get(k)]
        if other and not (out / "before.json").is_file():
            shutil.rmtree(out / "pictures", ignore_errors=True)  # it did not get beyond reading them
        elif other:
            what = "; ".join(f"{k} was {before.get(k)!r}, is {identity.get(k)!r}" for k in other)
            raise ConfigError(f"{out} holds an adaptation with other settings: {what}", "give another --out")
    elif out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no adaptation", "give a new or empty folder as --out")
    write_json(path, identity)


def _measured(
    path: Path, frames: FrameSet, weights: str | Path, device: str, settings: AdaptSettings, display: Display
) -> dict[str, list]:
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    found = adapt_check.measure(frames, weights, device, settings.check, settings.learn.seed, display)
    write_json(path, found)
    return found


def _labelled(
    path: Path,
    network: SuperpointNetwork,
    frames: FrameSet,
    settings: LearnSettings,
    half: bool,
    display: Display,
    few: int | None = None,
) -> list[Labelled]:
    """Pictures with their labels, on the network's device; ``few``: evenly spread ones only."""
    device = next(network.parameters()).device
    pictures = load_grey(frames)
    if few is not None and len(pictures) > few:
        pictures = [pictures[i] for i in np.linspace(0, len(pictures) - 1, few).round().astype(int)]
    display.begin(len(pictures), "pictures")
    kept = read_npz(path) if path.is_file() else {}
    points: dict[str, np.ndarray] = {}
    out = []
    for i, (grey, mask) in enumerate(pictures):
        picture = torch.from_numpy(grey).to(device)[None].float() / 255
        use, name = torch.from_numpy(mask).to(device), str(i)
        if name in kept:
            found = torch.from_numpy(kept[name]).to(device)
        else:
            generator = torch.Generator(device).manual_seed(settings.seed * 100_003 + i)
            mean = mean_probability(network, picture, use, settings.label_warps, generator, half)
            xy, strengths = label_points(mean, use, settings.label_threshold, settings.label_count)
            found = torch.cat([xy, strengths[:, None]], 1)
        points[name] = found.cpu().numpy()
        out.append(Labelled(picture, use, found[:, :2], found[:, 2]))
        display.advance(1, labels=len(found))
    if not kept:
        write_npz(path, points)
    if not sum(len(p) for p in points.values()):
        raise StageError(
            "the starting weights find no keypoint in the pictures that would do as a label",
            "lower learn.label_threshold, or start from other weights",
        )
    return out


def _digest(pictures: list[Labelled]) -> str:
    digest = hashlib.sha256()
    for p in pictures:
        digest.update((p.picture * 255).round().to(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def _provenance(frames: Frames, origin: Origin, settings: AdaptSettings) -> dict[str, Any]:
    return {
        "what": "SuperPoint weights adapted to a user's own pictures, without labels",
        "derived_from": origin.facts(),
        "data": f"{len(frames.learn)} frames of the user's pictures ({frames.source}); not passed on with the weights",
        "settings": flat(settings),
        "seed": settings.learn.seed,
    }

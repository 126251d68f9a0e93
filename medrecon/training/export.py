# SPDX-License-Identifier: Apache-2.0
"""From the folder of a finished training to weights that can be passed on: safetensors, facts, model card, curves.

A machine for training has torch and numpy alone; what it leaves is read here, checked, and described.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import medrecon
from medrecon.errors import ConfigError, InputError
from medrecon.features.superpoint_network import SuperpointNetwork
from medrecon.matching.superglue_network import SuperglueNetwork
from medrecon.networks.checkpoint import load_checkpoint, load_network, save_checkpoint
from medrecon.training.draw_curves import draw, load_runs
from medrecon.training.model_card import card
from medrecon.training.shards import read_shards
from medrecon.types.storage import read_json, write_bytes_atomic

# File in a run -> (network, what it is).
KINDS = {
    "superpoint": (SuperpointNetwork, "SuperPoint (keypoints and descriptors) trained on anatomy"),
    "superglue": (SuperglueNetwork, "SuperGlue (matcher) trained on anatomy"),
    "superpoint-adapted": (SuperpointNetwork, ""),
}
LEFT_OUT = "(path not recorded)"
SOURCE_KEYS = ("name", "modality", "license", "citation", "digest")


def export(
    run: Path,
    out: Path,
    name: str | None = None,
    half: bool = True,
    data: Path | None = None,
    evaluation: Path | None = None,
    force: bool = False,
) -> list[Path]:
    """Write NAME.safetensors, .json, .md and, with matplotlib, .png into ``out``; returns them.

    Args:
        run: the --out folder of ``medrecon train superpoint``, ``superglue`` or ``adapt``.
        name: of the files; default: the name in the run.
        half: float16, which halves the size; loaders compute in float32 all the same.
        data: the shards of the training, where the run does not say what they were.
        evaluation: Markdown file with a table for the card.
        force: replace what is there.

    Raises:
        InputError: no finished training, weights that cannot be read or do not survive float16, or no table.
        ConfigError: the files are there already, or nobody says what the weights were trained on.
    """
    kind = _kind(run)
    network_class, what = KINDS[kind]
    source = run / f"{kind}.safetensors"
    load_network(source, network_class)  # refuses what does not fit the network
    checkpoint = load_checkpoint(source, network_class.format)
    path = out / f"{name or kind}.safetensors"
    written = [path, *(path.with_suffix(s) for s in (".json", ".md"))]
    there = [p.name for p in written if p.exists()]
    if there and not force:
        raise ConfigError(f"{out} holds {', '.join(there)} already", "give another --out or --name, or --force")
    table = _text(evaluation) if evaluation else None

    provenance = checkpoint.provenance
    if "derived_from" not in provenance:
        provenance = trained_provenance(run, kind, what, _sources(run, provenance, data))
    tensors = {k: _narrow(k, t) if half else t for k, t in checkpoint.state_dict.items()}
    save_checkpoint(path, tensors, network_class.format, checkpoint.config, checkpoint.license, provenance)
    written += _curves(run, path.with_suffix(".png"))
    about = {"format": network_class.format, "config": checkpoint.config, "license": checkpoint.license}
    flat = provenance | provenance.get("training", {}) if "derived_from" in provenance else provenance
    flat = {"medrecon": medrecon.__version__, "command": _command("adapt", flat.get("settings", {})), **flat}
    picture = path.with_suffix(".png").name if len(written) > 3 else None
    text = card(path.stem, about | {"provenance": flat}, path.stat().st_size, picture, table)
    write_bytes_atomic(path.with_suffix(".md"), text.encode())
    return written


def trained_provenance(run: Path, kind: str, what: str, sources: list[dict[str, Any]]) -> dict[str, Any]:
    """Facts of a training from its summary: no paths, no names of machines or people."""
    summary = read_json(run / "summary.json")
    settings = without_paths(summary["settings"])
    return {
        "what": what,
        "data": sources,
        "command": _command(kind, settings),
        "seed": summary.get("seed", settings.get(f"{kind}.seed", settings.get("seed"))),
        **{key: summary[key] for key in ("steps", "seconds", "pairs", "pairs_per_s", "machine", "validation")},
        **{key: summary[key] for key in ("match_thresholds",) if key in summary},
        "settings": settings,
        "medrecon": medrecon.__version__,
        "exported": datetime.now(timezone.utc).date().isoformat(),
    }


def without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose texts are no paths: names of folders may be names of people."""
    path = lambda v: isinstance(v, str) and ("/" in v or "\\" in v or v.endswith((".safetensors", ".pth", ".pt")))  # noqa: E731
    return {k: LEFT_OUT if path(v) else v for k, v in settings.items()}


def _kind(run: Path) -> str:
    found = [k for k in KINDS if (run / f"{k}.safetensors").is_file()]
    if not found:
        unfinished = (run / "state.pt").is_file()
        raise InputError(
            f"{run} holds {'a training that is not finished' if unfinished else 'no training'}",
            "run its command again: it goes on where it stopped"
            if unfinished
            else "give the --out folder of a training",
        )
    if len(found) > 1:
        raise InputError(f"{run} holds more than one training: {', '.join(found)}", "give the folder of one")
    return found[0]


def _sources(run: Path, provenance: dict[str, Any], data: Path | None) -> list[dict[str, Any]]:
    """What the weights were trained on, with licences."""
    if data is not None:
        facts = ({**vars_of(s.meta), "digest": s.digest} for s in read_shards(data, "train"))
        return [{k: f[k] for k in SOURCE_KEYS} for f in facts]
    recorded = provenance.get("data") or read_json(run / "summary.json").get("data")
    if not isinstance(recorded, list) or not recorded:
        raise ConfigError("the run does not say what it was trained on", "--data SHARDS, the folder of the training")
    return recorded


def vars_of(meta) -> dict[str, Any]:
    """Facts of a shard that a card may show."""
    return {k: getattr(meta, k) for k in ("name", "modality", "license", "citation")}


def _command(kind: str, settings: dict[str, Any]) -> str:
    """The command that trains the same again, as far as settings differ from their defaults."""
    defaults = {}
    if kind in ("superpoint", "superglue"):
        from medrecon.training.kinds import settings_class
        from medrecon.training.settings import flat

        defaults = flat(settings_class(kind)())
    length = next(
        (f"--{k} {settings[f'schedule.{k}']:g}" for k in ("steps", "minutes") if settings.get(f"schedule.{k}")), ""
    )
    words = [f"medrecon train {kind} --data DATA --out OUT", length]
    if kind == "superglue":
        words.append("--superpoint SUPERPOINT.safetensors")
    for key, default in defaults.items():
        value = settings.get(f"{kind}.{key}", settings.get(key, default))
        value = tuple(value) if isinstance(value, list) else value
        default = tuple(default) if isinstance(default, list) else default
        if value != default and value != LEFT_OUT and not (kind == "superglue" and key == "superpoint"):
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            words.append(f"--set {key}={shown}")
    return " ".join(w for w in words if w)


def _narrow(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    if not torch.isfinite(half).all():
        raise InputError(f"the tensor {name!r} is too large for float16", "--full-precision")
    return half


def _curves(run: Path, path: Path) -> list[Path]:
    """The picture of the curves; none without matplotlib or without curves."""
    try:
        return [draw(load_runs([run]), path)]
    except (ConfigError, InputError):
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path} cannot be read as text: {e}", "give a Markdown file") from e

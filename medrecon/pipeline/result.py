# SPDX-License-Identifier: Apache-2.0
"""result.json: the figures of a run under fixed names."""

from __future__ import annotations

import math
from typing import Any

from medrecon.runfolder import RunFolder
from medrecon.types import Metric, Scale

# Always present in result.json, null when the run did not get so far or there is no truth to compare with.
CONTRACT = (
    "frames", "registered", "sparse_points", "mean_track_length", "reprojection_px", "psnr_db", "ssim", "lpips",
    "ate_mm", "surface_mean_mm", "surface_hd95_mm",
)  # fmt: skip


def _number(value: float, digits: int = 6) -> float | None:
    return round(value, digits) if math.isfinite(value) else None


def _sparse_metrics(run: RunFolder) -> tuple[list[Metric], Scale]:
    sparse, source = run.sparse, "sfm"
    return [
        Metric("registered", float(len(sparse.cam_from_world)), "frames", "higher", source=source),
        Metric("sparse_points", float(len(sparse.points)), "points", "higher", source=source),
        Metric("mean_track_length", _number(sparse.mean_track_length), "frames", "higher", source=source),
        Metric("reprojection_px", _number(sparse.mean_reprojection_px), "px", "lower", source=source),
    ], sparse.scale


def _refinement_metrics(run: RunFolder, scale: Scale) -> list[Metric]:
    """How far the training moved the poses of its pictures; nothing where it did not."""
    facts, source = run.pose_refinement, "poses refined beside the field, against those of structure from motion"
    if facts is None:
        return []
    factor, unit = (scale.metric_from_sfm.scale, "mm") if scale.is_metric else (1.0, "units")
    return [
        *(Metric(f"pose_turn_{k}_deg", facts[f"turn_{k}_deg"], "deg", source=source) for k in ("median", "largest")),
        *(
            Metric(f"pose_shift_{k}_{unit}", factor * facts[f"shift_{k}_sfm"], unit, source=source)
            for k in ("median", "largest")
        ),
    ]


def summarise(run: RunFolder, manifest: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Metric], Scale]:
    """(content of result.json, metrics by name, scale) from what the run has so far."""
    done = {s["name"] for s in manifest["stages"]}
    metrics: list[Metric] = []
    if "keyframes" in done:
        metrics.append(Metric("frames", float(len(run.frames)), "frames", source="keyframes"))
    scale = Scale()
    if "sfm" in done:
        more, scale = _sparse_metrics(run)
        metrics += more
    if "radiance" in done:
        metrics += _refinement_metrics(run, scale)
    if "analysis" in done:
        metrics += run.metrics
    by_name = {m.name: m for m in metrics}
    figures: dict[str, Any] = dict.fromkeys(CONTRACT)
    for m in metrics:
        figures[m.name] = int(m.value) if m.unit in ("frames", "points") and m.value == int(m.value or 0) else m.value
    seconds = {s["name"]: s["seconds"] for s in manifest["stages"]}
    seconds["total"] = round(sum(seconds.values()), 3)
    result = {
        "schema": 1,
        **figures,
        "scale": scale.stamp,
        "seconds": seconds,
        "backend": manifest["ops_backend"]["name"],
        "device": manifest["device"],
        "seed": manifest["seed"],
        "weights": [
            {
                "name": w["name"],
                "license": w["license"],
                "accepted": (w["acceptance"] or {}).get("how"),
                "experimental": w.get("experimental", False),
            }
            for w in manifest["weights"]
        ],
    }
    return result, by_name, scale

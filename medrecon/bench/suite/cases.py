# SPDX-License-Identifier: Apache-2.0
"""One run of the suite, and what is read off it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import medrecon
from medrecon.bench.front_ends import measure as sparse_figures
from medrecon.config.run_config import RunConfig
from medrecon.errors import AssetError, InputError, MedreconError
from medrecon.runfolder import RunFolder

METRICS = {"psnr": "psnr_db", "ssim": "ssim", "ms-ssim": "ms_ssim", "lpips": "lpips", "mae": "mae", "nrmse": "nrmse"}


@dataclass(frozen=True, slots=True)
class Case:
    """Attributes:
    labels: what distinguishes it, e.g. {"sequence": "brain", "method": "sift+...", "seed": 0}; also its name.
    config: of the run.
    until: last stage to run.
    heldout: frames that every method has to render, registered or not; () before there are fields.
    """

    labels: dict[str, Any]
    config: RunConfig
    until: str
    heldout: tuple[int, ...] = field(default=())

    @property
    def name(self) -> str:
        """Unique, and good as the name of a folder."""
        parts = [str(v) if k in ("sequence", "method") else f"{k}{v}" for k, v in self.labels.items()]
        return re.sub(r"[^\w.+=@-]+", "-", "-".join(parts))


def key_of(case: Case, root: Path) -> str:
    """The key of the last stage: it contains everything that decides the result."""
    from medrecon.pipeline.run import plan

    return plan(case.config, root, until=case.until)[-1].key


def run_case(case: Case, runs: Path, display: Any) -> dict[str, Any]:
    """Run it (or take what is there) and measure. A run that fails is a result too: ``failed`` says why.

    Raises:
        MedreconError: the pictures themselves cannot be made or used.
    """
    from medrecon.bench.share import adopt
    from medrecon.pipeline.run import plan, run

    root, begun = runs / case.name, time.monotonic()
    adopt(case.config, root, case.until)
    failed = None
    try:
        run(case.config, root, until=case.until, display=display)
    except MedreconError as e:
        done = {p.stage.name for p in plan(case.config, root, until=case.until) if p.cached}
        if "masks" not in done:
            raise
        failed = e.cause.splitlines()[0]
    done = {p.stage.name for p in plan(case.config, root, until=case.until) if p.cached}
    record = {"labels": case.labels, "until": case.until, "key": key_of(case, root), "failed": failed, "views": []}
    record |= {**sparse_figures(root, done), "stage_seconds": _seconds(root, done)}
    if case.heldout:
        record["views"] = view_figures(RunFolder(root, done=done), case.heldout, "render" in done)
    record["own_s"] = round(time.monotonic() - begun, 1)  # without the stages that other runs had done already
    return record


def _seconds(root: Path, done: set[str]) -> dict[str, float]:
    from medrecon.pipeline.cache import StageStore

    return {name: float(StageStore(root).stamp(name)["seconds"]) for name in sorted(done)}


def view_figures(run: RunFolder, heldout: tuple[int, ...], rendered: bool) -> list[dict[str, Any]]:
    """Image metrics of every held-out view.

    A view that was not rendered, because its frame did not register or the run failed, is judged as what there is to
    see: a black picture. ``rendered`` is False in its entry.
    """
    from medrecon.radiance.pictures import training_picture
    from medrecon.radiance.renders import Renders
    from medrecon.radiance.scene import Scene

    metrics = {n: medrecon.create("metric", n) for n in METRICS}
    frames = run.frames.by_id()
    views, scene = {}, None
    if rendered:
        scene = Scene.load(run.stage_dir("radiance") / "scene.json")
        views = {v.frame_id: v for v in Renders.load(run.stage_dir("render")).views}
    out = []
    for i in heldout:
        if i in views:
            image = views[i].load_rgb()
            camera = scene.cameras[i].scaled(image.shape[1], image.shape[0])
            true, mask = training_picture(frames[i], camera)
            first = views[i].measured_from_px
        else:
            true, mask, first = frames[i].load_image(), frames[i].load_mask(), 0
            image = np.zeros_like(true)
        counted = np.s_[:, first:]
        entry: dict[str, Any] = {"frame_id": i, "rendered": i in views}
        for name, metric in metrics.items():
            try:
                value = metric.measure(image[counted], true[counted], None if mask is None else mask[counted])
            except (AssetError, InputError):  # LPIPS without its weights, MS-SSIM of a small picture
                value = None
            entry[METRICS[name]] = None if value is None or not np.isfinite(value) else float(value)
        out.append(entry)
    return out

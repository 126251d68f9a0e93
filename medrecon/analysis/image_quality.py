# SPDX-License-Identifier: Apache-2.0
"""Held-out renders against the real pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from medrecon.config.base import ComponentConfig
from medrecon.errors import AssetError, InputError
from medrecon.progress import Progress
from medrecon.types import Metric

if TYPE_CHECKING:
    from medrecon.runfolder import RunFolder

# (name in result.json, unit, which direction is better); a plugin's metric keeps its own name and says neither.
_KNOWN = {
    "psnr": ("psnr_db", "dB", "higher"),
    "ssim": ("ssim", "", "higher"),
    "ms-ssim": ("ms_ssim", "", "higher"),
    "lpips": ("lpips", "", "lower"),
    "mae": ("mae", "", "lower"),
    "nrmse": ("nrmse", "", "lower"),
}


class ImageQualityAnalysisConfig(ComponentConfig):
    metrics: tuple[str, ...] = Field(tuple(_KNOWN), description="metric components to apply, by name")


class ImageQualityAnalysis:
    """Mean of each metric over the held-out views; sigma is the standard deviation between views, n their number.

    The real picture is reduced to the render's size; pixels its mask hides do not count, nor does the half of a picture
    that its appearance code was fitted to. A held-out view that was not rendered is counted in the note of every
    figure, never silently left out. A metric that lacks its weights, or is not defined on a picture, has the value None
    and a note.
    """

    def __init__(self, config: ImageQualityAnalysisConfig):
        self.config = config

    def analyse(self, run: "RunFolder", progress: Progress) -> list[Metric]:
        """Raises InputError when the render stage is missing, ConfigError for a metric that does not exist."""
        import medrecon
        from medrecon.radiance.pictures import training_picture
        from medrecon.radiance.renders import Renders
        from medrecon.radiance.scene import Scene

        measures = [(name, medrecon.create("metric", name)) for name in self.config.metrics]
        renders = Renders.load(run.stage_dir("render"))
        scene, frames = Scene.load(run.stage_dir("radiance") / "scene.json"), run.frames.by_id()
        values: dict[str, list[float]] = {name: [] for name in self.config.metrics}
        problems: dict[str, str] = {}
        wanted, rendered = set(scene.heldout_ids), set()
        views = [v for v in renders.views if v.frame_id in wanted and v.frame_id in frames]
        progress.begin(len(views), "views")
        for view in views:
            rendered.add(view.frame_id)
            image = view.load_rgb()
            camera = scene.cameras[view.frame_id].scaled(image.shape[1], image.shape[0])
            reference, mask = training_picture(frames[view.frame_id], camera)
            counted = np.s_[:, view.measured_from_px :]
            mask = None if mask is None else mask[counted]
            for name, metric in measures:
                self._measure(name, metric, image[counted], reference[counted], mask, values, problems)
            progress.advance(1)
        return [self._metric(n, values[n], problems.get(n, ""), len(wanted - rendered), renders) for n, _ in measures]

    @staticmethod
    def _measure(name: str, metric: Any, image, reference, mask, values: dict, problems: dict) -> None:
        if isinstance(problems.get(name), AssetError):
            return
        try:
            value = float(metric.measure(image, reference, mask))
        except AssetError as e:
            problems[name] = e
        except InputError as e:
            problems.setdefault(name, e)
        else:
            if np.isfinite(value):
                values[name].append(value)
            else:
                problems.setdefault(name, InputError(f"{name} is not finite on some views"))

    @staticmethod
    def _metric(name: str, values: list[float], problem: Any, missing: int, renders: Any) -> Metric:
        key, unit, better = _KNOWN.get(name, (name.replace("-", "_"), "", ""))
        notes = []
        if problem:
            notes.append(f"{problem.cause}" + (f" (try: {problem.remedy})" if problem.remedy else ""))
        if missing:
            notes.append(f"{missing} held-out views were not rendered")
        if not values and not notes:
            notes.append("no view was held out")
        value = float(np.mean(values)) if values else None
        spread = float(np.std(values)) if len(values) > 1 else None
        source = f"held-out renders, {renders.words}"
        return Metric(key, value, unit, better, spread, len(values), source, "; ".join(notes))

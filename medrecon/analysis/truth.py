# SPDX-License-Identifier: Apache-2.0
"""Cameras, focal length, surface and depth against the truth of rendered pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from medrecon.analysis.truth_surface import depth_errors, reconstructed_points, true_points
from medrecon.config.base import ComponentConfig
from medrecon.errors import InputError
from medrecon.metrics.poses import PoseErrors, pose_errors
from medrecon.metrics.surface import DistanceSummary, chamfer, distances_to_points, summarise
from medrecon.progress import Progress
from medrecon.surface.vtk_mesh import MeshLocator
from medrecon.types import Metric, Sim3, SparseModel, Truth

if TYPE_CHECKING:
    from medrecon.runfolder import RunFolder

_ALIGNED = "after the best similarity (7 parameters) of the estimated onto the true camera centres"


class TruthAnalysisConfig(ComponentConfig):
    max_points: int = Field(60_000, ge=100, description="points per direction of the surface comparison, and rays cast")
    found_within_mm: float = Field(
        2.5, gt=0, description="a place of the true surface is found if the reconstruction comes this near"
    )


class TruthAnalysis:
    """Errors in millimetres against known cameras and depth; nothing when the pictures carry no truth.

    All lengths are measured after one similarity that takes the reconstruction to the true world, found from the
    camera centres alone (the surface is never fitted to the true surface), so they say how good the *shape* is; how
    good the reconstruction's own scale is stands in ``scale_error_percent``. Where the training refined the poses
    ``ate_refined_mm`` and ``rotation_refined_deg`` stand beside those of structure from motion, and the similarity is
    that of the refined ones.

    Surfaces are compared on what the registered cameras saw: the true side is their depth maps, back-projected; the
    reconstructed side is the first hits of the estimated cameras' rays. ``surface_*`` go from the reconstruction to
    the truth (accuracy), ``completeness_*`` from the truth to the reconstruction.
    """

    def __init__(self, config: TruthAnalysisConfig):
        self.config = config

    def analyse(self, run: "RunFolder", progress: Progress) -> list[Metric]:
        truth = run.truth
        if truth is None:
            return []
        sparse = run.sparse
        known = len(set(truth.cam_from_world_mm) & {f.frame_id for f in run.frames.frames})
        metrics = [
            Metric(
                "registered_fraction",
                len(sparse.cam_from_world) / max(1, known),
                "",
                "higher",
                None,
                known,
                "sfm",
                "of the frames structure from motion was given",
            )  # fmt: skip
        ]
        try:
            errors = pose_errors(sparse.cam_from_world, truth.cam_from_world_mm)
        except InputError as e:
            note = f"not comparable: {e.cause}"
            return metrics + [Metric(n, None, "mm", "lower", note=note) for n in ("ate_mm", "surface_mean_mm")]
        metrics += _camera_metrics(errors, sparse, truth)
        if run.pose_refinement is not None:
            sparse = run.posed
            errors = pose_errors(sparse.cam_from_world, truth.cam_from_world_mm)
            metrics += _refined_metrics(errors)
        metrics += self._surface(run, sparse, truth, errors.reference_from_estimate, progress)
        return metrics + _depth(run, truth, errors.reference_from_estimate)

    def _surface(
        self, run: "RunFolder", sparse: SparseModel, truth: Truth, world_from_sfm: Sim3, progress: Progress
    ) -> list[Metric]:
        source = "surface and depth of the registered views"
        names = ("surface_mean_mm", "surface_rms_mm", "surface_hd95_mm", "completeness_mean_mm", "completeness_rms_mm",
                 "completeness_hd95_mm", "chamfer_mm")  # fmt: skip
        nothing = lambda why: [Metric(n, None, "mm", "lower", source=source, note=why) for n in names]  # noqa: E731
        if not run.has("surface"):
            return nothing("the run has no surface")
        cloud, spacing = true_points(truth, sparse.registered_ids, progress)
        if not len(cloud):
            return nothing("the truth holds no depth for the registered frames")
        mesh = run.mesh
        vertices = (world_from_sfm @ sparse.scale.metric_from_sfm.inverse()).apply(mesh.vertices)
        locator = MeshLocator(vertices, mesh.faces)
        seen = reconstructed_points(
            locator, vertices, sparse, world_from_sfm, self.config.max_points, spacing, progress
        )
        if not len(seen):
            return nothing("no ray of the registered cameras hits the reconstructed surface")
        accuracy = summarise(distances_to_points(seen, cloud))
        pick = np.linspace(0, len(cloud) - 1, min(len(cloud), self.config.max_points)).round().astype(int)
        missed = locator.distances(cloud[pick])
        completeness = summarise(missed)
        note = f"{_ALIGNED}; true points every {spacing:.2f} mm"

        def three(prefix: str, d: DistanceSummary) -> list[Metric]:
            make = lambda n, v: Metric(f"{prefix}_{n}_mm", v, "mm", "lower", None, d.n, source, note)  # noqa: E731
            return [make("mean", d.mean), make("rms", d.rms), make("hd95", d.p95)]

        within = self.config.found_within_mm
        found = Metric(
            "true_surface_found_percent", 100 * float((missed <= within).mean()), "%", "higher", None, missed.size,
            source,
            f"of the true surface that the cameras saw: the reconstruction lies within {within:g} mm; {_ALIGNED}",
        )  # fmt: skip
        both = Metric("chamfer_mm", chamfer(accuracy, completeness), "mm", "lower", None, None, source, note)
        return [*three("surface", accuracy), *three("completeness", completeness), both, found]


def _camera_metrics(errors: PoseErrors, sparse: SparseModel, truth: Truth) -> list[Metric]:
    n, source = len(errors.frame_ids), "camera poses"

    def metric(name: str, value: float, unit: str, note: str = _ALIGNED, sigma: float | None = None) -> Metric:
        return Metric(name, float(value), unit, "lower", sigma, n, source, note)

    focal = []
    for i in errors.frame_ids:
        true = truth.cameras[i].scaled(sparse.cameras[i].width_px, sparse.cameras[i].height_px)
        focal.append(np.mean(sparse.cameras[i].focal_px) / np.mean(true.focal_px) - 1)
    out = [
        metric("ate_mm", errors.ate, "mm", f"root mean square, {_ALIGNED}", float(errors.center.std())),
        metric("ate_mean_mm", errors.center.mean(), "mm"),
        metric("ate_max_mm", errors.center.max(), "mm"),
        metric("rotation_deg", errors.rotation_deg.mean(), "deg", sigma=float(errors.rotation_deg.std())),
        metric("rotation_max_deg", errors.rotation_deg.max(), "deg"),
        metric("focal_error_percent", 100 * np.abs(focal).mean(), "%", "mean absolute error over the cameras"),
    ]
    if sparse.scale.is_metric:
        ratio = sparse.scale.metric_from_sfm.scale / errors.reference_from_estimate.scale
        note = f"of the scale from {sparse.scale.source}, against the best similarity"
        out.append(metric("scale_error_percent", 100 * abs(ratio - 1), "%", note))
    return out


def _refined_metrics(errors: PoseErrors) -> list[Metric]:
    n, source = len(errors.frame_ids), "camera poses refined beside the field"
    return [
        Metric(
            "ate_refined_mm", errors.ate, "mm", "lower", float(errors.center.std()), n, source,
            f"root mean square, {_ALIGNED}",
        ),
        Metric(
            "rotation_refined_deg", float(errors.rotation_deg.mean()), "deg", "lower",
            float(errors.rotation_deg.std()), n, source, _ALIGNED,
        ),
    ]  # fmt: skip


def _depth(run: "RunFolder", truth: Truth, world_from_sfm: Sim3) -> list[Metric]:
    """Mean absolute error of the held-out views' rendered depth, where both sides hit something."""
    if not run.has("render"):
        return []
    from medrecon.radiance.renders import Renders

    views = [v for v in Renders.load(run.stage_dir("render")).views if v.frame_id in truth.depth_paths]
    gaps = [depth_errors(v, truth, world_from_sfm.scale) for v in views]
    gaps = np.concatenate(gaps) if gaps else np.zeros(0)
    source = "rendered depth of the held-out views"
    if not gaps.size:
        return [Metric("depth_mae_mm", None, "mm", "lower", source=source, note="no rendered depth to compare")]
    return [
        Metric("depth_mae_mm", float(gaps.mean()), "mm", "lower", float(gaps.std()), gaps.size, source, _ALIGNED),
        Metric("depth_median_mm", float(np.median(gaps)), "mm", "lower", None, gaps.size, source, _ALIGNED),
    ]

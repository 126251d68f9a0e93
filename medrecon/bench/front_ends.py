# SPDX-License-Identifier: Apache-2.0
"""The benchmark ``front-ends``: pipelines up to poses and points on one set of pictures, method against method."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medrecon.bench import front_end_tables
from medrecon.bench.methods import QUICK, Method, left_out, licences, parse, sections
from medrecon.bench.relay import Relay
from medrecon.bench.share import adopt
from medrecon.config import ComponentConfig
from medrecon.errors import MedreconError
from medrecon.progress import Progress
from medrecon.runfolder import RunFolder
from medrecon.types import SparseModel, Truth
from medrecon.types.storage import write_bytes_atomic, write_json

SCHEMA = 1
LAST = "sfm"
QUICK_FRAMES = 12
FIGURES = (
    "keypoints", "pairs", "putative_per_pair", "verified_per_pair", "verified_pairs", "registered", "points",
    "track_length", "reprojection_px", "focal_px", "true_focal_px", "ate_mm", "features_s", "matching_s", "sfm_s",
)  # fmt: skip


class FrontEndsBenchmarkConfig(ComponentConfig):
    """Options of the comparison of front ends."""

    input: Path | None = Field(None, description="video, folder of pictures, DICOM or volume; null: the demo's CT")
    frames: int | None = Field(None, ge=3, description="keyframes (of a volume: views); null: as the preset says")
    methods: tuple[str, ...] = Field((), description="extractor+matcher; empty: all that are known (quick: SIFT, ORB)")
    budget: int = Field(1024, ge=16, le=100000, description="keypoints per picture, the same for every method")
    pairs: Literal["sequential", "exhaustive"] = Field(
        "sequential", description="which pairs: neighbours in time without loop closing, or all; the same for everyone"
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: all cores")
    options: dict[str, dict[str, Any]] = Field({}, description="options of components, by name")
    overrides: tuple[str, ...] = Field((), description="section.key=value of the run's configuration, for every method")


class FrontEndsBenchmark:
    """Writes runs/METHOD-sSEED/ (ordinary run folders), results.json and results.md; resumes where it was stopped.

    Every method gets the same keyframes, masks, pairs, verification and mapper, and the same number of keypoints, which
    stay where it found them.
    """

    def __init__(self, config: FrontEndsBenchmarkConfig):
        self.config = config

    def run(self, out_dir: Path, quick: bool, seeds: int, progress: Progress) -> dict:
        """Measure and return the content of results.json.

        Raises:
            ConfigError: unknown methods or options.
            InputError: pictures that cannot be used.
            StageError: not one method can be run.
        """
        c, out_dir = self.config, Path(out_dir)
        methods = parse(c.methods or (QUICK if quick else ()), c.budget, c.options)
        skipped = left_out(methods, progress)
        rows = []
        todo = [m for m in methods if m.name not in skipped]
        progress.begin(len(todo) * seeds, "runs")
        for method in todo:
            for seed in range(seeds):
                rows.append(self._one(method, seed, quick, out_dir, progress))
                progress.advance()
        results = self._results(rows, [s for m in methods if (s := skipped.get(m.name))], seeds, quick, out_dir)
        write_json(out_dir / "results.json", results)
        write_bytes_atomic(out_dir / "results.md", front_end_tables.markdown(results).encode())
        return results

    def _config(self, method: Method, seed: int, quick: bool):
        """The run's configuration: preset (or demo), then what the benchmark fixes, then the user's overrides."""
        from medrecon.cli.demo import demo_config
        from medrecon.config import yaml_file
        from medrecon.config.run_config import load_config, merge
        from medrecon.ingest.guess import guess_source

        c = self.config
        if c.input is None:
            data, _ = yaml_file.read(demo_config())
        else:
            name = guess_source(c.input)
            data = {"version": 1, "preset": "endoscopy" if name == "video" else "orbit"}
            data["source"] = {"name": name, "path": str(c.input)}
        frames = c.frames or (QUICK_FRAMES if quick else None)
        fixed: dict[str, Any] = {
            "seed": seed,
            "threads": c.threads,
            "features": {"name": method.extractor, **method.extractor_options},
            "matching": {"name": method.matcher, **method.matcher_options},
            # Loop closing picks pairs by the method's own descriptors: they would no longer be the same for all.
            "pairing": {"name": c.pairs, **({"loop_every": 0} if c.pairs == "sequential" else {})},
        }
        # Aligned along their tracks in the end, keypoints of all front ends would come out much the same.
        if not any(o.startswith(("sfm.name", "sfm.refine_tracks")) for o in c.overrides):
            fixed["sfm"] = {"refine_tracks": False}
        if frames and data["source"]["name"] == "views":
            fixed["source"] = {"n_views": frames}
        elif frames:
            fixed["keyframes"] = {"name": "quality", "target": frames}
        return load_config(merge(data, fixed), c.overrides)

    def _one(self, method: Method, seed: int, quick: bool, out_dir: Path, progress: Progress) -> dict[str, Any]:
        """Run one method to its sparse model; a model that does not come about is a result too."""
        from medrecon.pipeline.run import run

        config = self._config(method, seed, quick)
        root = _run_folder(out_dir, method.name, seed)
        adopt(config, root, LAST)
        facts = {"method": method.name, "seed": seed, "license": licences(*sections(method)), "failed": None}
        try:
            run(config, root, until=LAST, display=Relay(progress, method.name))
        except MedreconError as e:
            if not _done(config, root) & {"masks"}:
                raise  # the pictures cannot be used: no method's fault
            facts["failed"] = e.cause.splitlines()[0]
            progress.say(f"{method.name} failed: {facts['failed']}")
        return {**facts, **measure(root, _done(config, root))}

    def _results(self, rows, skipped, seeds: int, quick: bool, out_dir: Path) -> dict[str, Any]:
        from medrecon.pipeline.manifest import machine, package_versions

        first = RunFolder(_run_folder(out_dir, rows[0]["method"], 0), done={"source", "keyframes", "masks"})
        return {
            "schema": SCHEMA,
            "benchmark": "front-ends",
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "quick": quick,
            "seeds": seeds,
            "source": first.source_frames.source,
            "frames": len(first.frames),
            "size_px": [first.frames.frames[0].width_px, first.frames.frames[0].height_px],
            "budget": self.config.budget,
            "pairing": self.config.pairs,
            "threads": self.config.threads,
            "machine": machine(),
            "versions": package_versions(),
            "rows": rows,
            "skipped": [{"name": s.name, "reason": s.reason, "command": s.command} for s in skipped],
        }


def _run_folder(out_dir: Path, method: str, seed: int) -> Path:
    plain = re.sub(r"[^\w.+=-]+", "-", method)
    return out_dir / "runs" / f"{plain}-s{seed}"


def _done(config, root: Path) -> set[str]:
    """Names of the stages that are done with exactly these settings."""
    from medrecon.pipeline.run import plan

    return {p.stage.name for p in plan(config, root, until=LAST) if p.cached}


def measure(root: Path, done: set[str]) -> dict[str, Any]:
    """Figures of one run folder, None for what it did not reach.

    Args:
        done: stages whose results belong to the run.
    """
    from medrecon.pipeline.cache import StageStore

    run, store = RunFolder(root, done=done), StageStore(root)
    out: dict[str, Any] = dict.fromkeys(FIGURES)
    out |= {f"{n}_s": float(store.stamp(n)["seconds"]) for n in ("features", "matching", "sfm") if n in done}
    if "features" in done:
        out["keypoints"] = float(np.mean([len(run.features[f.frame_id]) for f in run.frames.frames]))
    if "matching" in done:
        pairs = run.graph.pairs
        out["pairs"] = len(pairs)
        out["putative_per_pair"] = float(np.mean([len(p.putative) for p in pairs]))
        out["verified_per_pair"] = float(np.mean([p.n_inliers for p in pairs]))
        out["verified_pairs"] = sum(p.kind != "none" for p in pairs)
    truth = run.truth
    if truth is not None:
        out["true_focal_px"] = float(np.mean([c.focal_px[0] for c in truth.cameras.values()]))
    if "sfm" not in done:
        return {**out, "registered": 0, "points": 0}
    return out | model_figures(run.sparse, truth)


def model_figures(model: SparseModel, truth: Truth | None) -> dict[str, Any]:
    """Of :data:`FIGURES`, those of a sparse model; the trajectory error where there is a truth and a trajectory."""
    from medrecon.metrics.poses import pose_errors

    out: dict[str, Any] = {
        "registered": len(model.cam_from_world),
        "points": len(model.points),
        "track_length": _finite(model.mean_track_length),
        "reprojection_px": _finite(model.mean_reprojection_px),
        "focal_px": float(np.mean([model.cameras[i].focal_px[0] for i in model.cam_from_world])),
    }
    if truth is not None and len(model.cam_from_world) > 2:
        out["ate_mm"] = pose_errors(model.cam_from_world, truth.cam_from_world_mm).ate
    return out


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

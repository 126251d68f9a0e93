# SPDX-License-Identifier: Apache-2.0
"""The benchmark ``matching``: front ends on pairs whose correspondences are known exactly."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import Field

from medrecon.bench import degrade, tables
from medrecon.bench.case_sets import CaseSettings, make_cases, settings
from medrecon.bench.cases import Case, CaseFolder, prepare_cases
from medrecon.bench.methods import QUICK, Method, Skipped, left_out, parse, sections
from medrecon.bench.volumes import VolumeChoice
from medrecon.config import ComponentConfig
from medrecon.errors import MedreconError, StageError
from medrecon.progress import Progress
from medrecon.types.storage import write_bytes_atomic, write_json

SCHEMA = 1


class MatchingBenchmarkConfig(ComponentConfig):
    """Options of the matching benchmark."""

    methods: tuple[str, ...] = Field((), description="extractor+matcher; empty: all that are known (quick: SIFT, ORB)")
    budget: int = Field(1024, ge=16, le=100000, description="keypoints per picture, the same for every method")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of every method; 0: all cores")
    volumes: tuple[VolumeChoice, ...] = Field((VolumeChoice(),), min_length=1, description="volumes to render")
    images: Path | None = Field(None, description="folder of pictures, added to those seen under homographies")
    options: dict[str, dict[str, Any]] = Field(
        {}, description="options of components, by name: {sift: {contrast_threshold: 0.02}}"
    )
    plots: bool = Field(True, description="draw the plots and the keypoints (needs matplotlib)")


class MatchingBenchmark:
    """Writes cases/, predictions/, results.json, results.csv, results.md and plots; resumes where it was stopped."""

    def __init__(self, config: MatchingBenchmarkConfig):
        self.config = config

    def run(self, out_dir: Path, quick: bool, seeds: int, progress: Progress) -> dict:
        """Measure and return the content of results.json.

        Raises:
            ConfigError: unknown methods or options, or no matplotlib for the plots.
            InputError: a volume or folder of pictures that cannot be used.
            StageError: not one method could be run.
        """
        if self.config.plots:
            from medrecon.bench.plots import require_matplotlib

            require_matplotlib()
        config, out_dir = self.config, Path(out_dir)
        methods = parse(config.methods or (QUICK if quick else ()), config.budget, config.options)
        chosen = settings(quick, seeds)
        skipped = left_out(methods, progress)
        folder = prepare_cases(out_dir / "cases", self._case_key(chosen), lambda f: self._make(f, chosen, progress))
        rows, ran = self._measure(methods, skipped, folder, out_dir, progress)
        results = self._results(methods, skipped, ran, rows, folder.cases(), chosen, quick)
        write_json(out_dir / "results.json", results)
        tables.write_csv(out_dir / "results.csv", rows)
        write_bytes_atomic(out_dir / "results.md", tables.markdown(results).encode())
        if config.plots:
            from medrecon.bench.plots import draw_all

            draw_all(results, folder, {n: r["made"] for n, r in ran.items()}, out_dir)
        return results

    def _make(self, folder: CaseFolder, chosen: CaseSettings, progress: Progress) -> list[Case]:
        return make_cases(folder, chosen, self.config.volumes, self.config.images, progress)

    def _case_key(self, chosen: CaseSettings) -> str:
        """sha256 of everything the pairs depend on; files count by content, not by name."""
        from medrecon.config.run_config import is_builtin
        from medrecon.pipeline.cache import digest_path

        def content(path: Path) -> str:
            return str(path) if is_builtin(path) else digest_path(path)

        facts = {
            "settings": chosen.facts(),
            "volumes": [{**json.loads(v.model_dump_json()), "path": content(v.path)} for v in self.config.volumes],
            "images": content(self.config.images) if self.config.images else None,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _measure(self, methods: list[Method], skipped: dict[str, Skipped], folder: CaseFolder, out_dir, progress):
        """(rows of results.csv, facts of every method that ran); one that fails joins ``skipped``."""
        from medrecon.bench.evaluate import evaluate_pair
        from medrecon.bench.predict import predict

        rows, ran = [], {}
        cases = folder.cases()
        for method in methods:
            if method.name in skipped:
                continue
            try:
                made = predict(method, folder, out_dir / "predictions", self._threads(), progress)
            except MedreconError as e:
                skipped[method.name] = Skipped(method.name, e.cause, e.remedy)
                progress.say(f"{method.name} failed and is left out: {e.cause}")
                continue
            progress.begin(len(cases), f"pairs of {method.name} compared with the truth")
            for case in cases:
                facts = {k: getattr(case, k) for k in ("group", "subject", "variation", "strength", "seed")}
                rows.append({"method": method.name, "case": case.name, **facts, **evaluate_pair(folder, case, made)})
                progress.advance()
            ran[method.name] = {"made": made, "peak_memory_mb": made.peak_memory_mb()}
        if not ran:
            raise StageError("every method failed", "; ".join(f"{s.name}: {s.reason}" for s in skipped.values()))
        return rows, ran

    def _threads(self) -> int:
        return self.config.threads or os.cpu_count() or 1

    def _results(self, methods, skipped, ran, rows, cases: list[Case], chosen: CaseSettings, quick: bool) -> dict:
        from medrecon.bench.evaluate import summarise
        from medrecon.pipeline.manifest import machine, package_versions

        seeds = range(chosen.seeds)
        groups = sorted({c.group for c in cases})
        variations = sorted({(c.group, c.variation, -1.0 if c.strength is None else c.strength) for c in cases})
        figures, by_variation = {}, []
        for name in ran:
            mine = [r for r in rows if r["method"] == name]
            figures[name] = {g: summarise([r for r in mine if r["group"] == g], seeds) for g in groups}
            figures[name]["all"] = summarise(mine, seeds)
            for group, variation, strength in variations:
                strength = None if strength < 0 else strength
                part = [r for r in mine if (r["group"], r["variation"], r["strength"]) == (group, variation, strength)]
                label = variation if strength is None else f"{strength:g}"
                by_variation.append(
                    {"method": name, "group": group, "variation": variation, "strength": strength, "label": label,
                     "figures": summarise(part, seeds)}
                )  # fmt: skip
        return {
            "schema": SCHEMA,
            "benchmark": "matching",
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "quick": quick,
            "seeds": chosen.seeds,
            "budget": self.config.budget,
            "threads": self._threads(),
            "size_px": chosen.size_px,
            "machine": machine(),
            "versions": package_versions(),
            "n_cases": {g: sum(c.group == g for c in cases) for g in groups},
            "strength": degrade.STRENGTH,
            "methods": [_method_facts(m, skipped.get(m.name), ran.get(m.name)) for m in methods],
            "figures": figures,
            "by_variation": [v for v in by_variation if v["group"] != "sweep"],
            "sweeps": [v for v in by_variation if v["strength"] is not None],
        }


def _method_facts(method: Method, skipped: Skipped | None, ran: dict | None) -> dict[str, Any]:
    """A line of results.json on a method: what it was made of, or why it was not run."""
    facts: dict[str, Any] = {"name": method.name, "status": "ran" if ran else "skipped"}
    if ran is None:
        return {**facts, "reason": skipped.reason, "command": skipped.command}
    from medrecon.bench.methods import licences
    from medrecon.pipeline.weights import weights_sha256

    extractor, matcher = sections(method)
    return {
        **facts,
        "extractor": _without_paths(extractor.settled().to_dict()),
        "matcher": _without_paths(matcher.settled().to_dict()),
        "license": licences(extractor, matcher),
        "weights_sha256": sorted(digest for part in (extractor, matcher) for digest in weights_sha256(part)),
        "peak_memory_mb": ran["peak_memory_mb"],
    }


def _without_paths(options: dict[str, Any]) -> dict[str, Any]:
    return {k: ("(path not recorded)" if isinstance(v, str) and os.sep in v else v) for k, v in options.items()}

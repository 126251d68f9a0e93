# SPDX-License-Identifier: Apache-2.0
"""Predictions of a method on a folder of cases: made once, kept on disk, timed and weighed in their own process.

Below ``root``: EXTRACTOR-KEY/<image>.npz with <image>.json (milliseconds), and EXTRACTOR-KEY+MATCHER-KEY/<a>-<b>.npz.
The keys hold everything that decides the result (options, weights, versions) and the number of threads; the pictures'
names are hashes of their pixels. What is there under its name is therefore never stale.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medrecon.bench.cases import Case, CaseFolder
from medrecon.bench.methods import Method, component_key, sections
from medrecon.errors import MedreconError, StageError
from medrecon.progress import Progress
from medrecon.types import Features, Matches
from medrecon.types.storage import read_json, read_npz, write_json, write_npz

_TICK = "medrecon-bench-done"  # what a worker prints after each item
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Predictions:
    """Where a method's predictions lie, and reading them."""

    features_dir: Path
    matches_dir: Path

    def features(self, image: str) -> Features:
        return Features.load(self.features_dir / f"{image}.npz")

    def matches(self, case: Case) -> Matches:
        z = read_npz(self.matches_dir / f"{case.image_a}-{case.image_b}.npz")
        return Matches(z["idx"], z["scores"])

    def extract_ms(self, image: str) -> float:
        return float(read_json(self.features_dir / f"{image}.json")["ms"])

    def match_ms(self, case: Case) -> float:
        return float(read_npz(self.matches_dir / f"{case.image_a}-{case.image_b}.npz")["ms"])

    def peak_memory_mb(self) -> float | None:
        """Greatest resident memory of the process that extracted and of the one that matched, MiB."""
        found = [
            read_json(d / "process.json")["peak_mb"]
            for d in (self.features_dir, self.matches_dir)
            if (d / "process.json").is_file()
        ]
        return max((m for m in found if m is not None), default=None)


def predict(method: Method, folder: CaseFolder, root: Path, threads: int, progress: Progress) -> Predictions:
    """Features of every picture and matches of every pair that are not on disk yet.

    Extraction and matching run in a process each, so that one method's memory is not another's.

    Raises:
        StageError: the method failed; names it and its last words.
    """
    keys = [hashlib.sha256(f"{component_key(s)} {threads}".encode()).hexdigest()[:16] for s in sections(method)]
    features_dir = root / f"{method.extractor}-{keys[0]}"
    matches_dir = root / f"{method.extractor}-{keys[0]}+{method.matcher}-{keys[1]}"
    out = Predictions(features_dir, matches_dir)
    cases = folder.cases()
    images = sorted({i for c in cases for i in (c.image_a, c.image_b)})
    pairs = sorted({(c.image_a, c.image_b) for c in cases})
    images_todo = [i for i in images if not (features_dir / f"{i}.npz").is_file()]
    pairs_todo = [p for p in pairs if not (matches_dir / f"{p[0]}-{p[1]}.npz").is_file()]
    progress.begin(len(images) + len(pairs), f"pictures and pairs by {method.name}")
    progress.advance(len(images) - len(images_todo) + len(pairs) - len(pairs_todo))
    base = {"method": method.to_dict(), "cases": str(folder.root), "features": str(features_dir), "threads": threads}
    if images_todo:
        _work({**base, "images": images_todo, "out": str(features_dir)}, method, progress)
    if pairs_todo:
        _work({**base, "pairs": pairs_todo, "out": str(matches_dir)}, method, progress)
    return out


def _work(job: dict, method: Method, progress: Progress) -> None:
    """Run a worker to its end; what it finished stays when it, or we, are killed."""
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "job.json", job)
    environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(job["threads"]))}
    log = out / "worker.log"
    with open(log, "w", encoding="utf-8") as errors:
        worker = subprocess.Popen(
            [sys.executable, "-m", "medrecon.bench.predict", str(out / "job.json")],
            stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
        )  # fmt: skip
        try:
            for line in worker.stdout:
                if line.strip() == _TICK:
                    progress.advance()
            code = worker.wait()
        except BaseException:
            worker.terminate()
            worker.wait()
            raise
    if code:
        words = [w for w in log.read_text(encoding="utf-8", errors="replace").splitlines() if w.strip()]
        cause = words[-1] if words else "it left no message"
        raise StageError(f"{method.name} stopped with exit code {code}: {cause}", f"the whole story is in {log}")


def peak_memory_mb() -> float | None:
    """Peak resident memory of this process, MiB; None where the system does not say.

    Not ``ru_maxrss`` where /proc is there: that begins with what the parent process had when it started this one.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _worker(job: dict) -> None:
    """Everything after the process began: build the component, warm it up once, then item by item."""
    import torch

    from medrecon.images import cv2
    from medrecon.plugins.manager import plugins

    torch.set_num_threads(job["threads"])
    cv2.setNumThreads(job["threads"])
    folder, out, features_dir = CaseFolder(job["cases"]), Path(job["out"]), Path(job["features"])
    extractor, matcher = sections(Method(**job["method"]))
    if "images" in job:
        _extract(plugins().build(extractor.component, extractor.options), folder, job["images"], out)
    else:
        _match(plugins().build(matcher.component, matcher.options), features_dir, job["pairs"], out)
    place = out / "process.json"
    before = read_json(place)["peak_mb"] if place.is_file() else None
    write_json(place, {"peak_mb": max((m for m in (before, peak_memory_mb()) if m is not None), default=None)})


def _extract(extractor, folder: CaseFolder, images: list[str], out: Path) -> None:
    from medrecon.features.extract import checked_extract

    checked_extract(extractor, *folder.image(images[0]), images[0])  # the first call compiles, loads and allocates
    for name in images:
        image, mask = folder.image(name)
        start = time.perf_counter()
        features = checked_extract(extractor, image, mask, name)
        write_json(out / f"{name}.json", {"ms": 1e3 * (time.perf_counter() - start)})
        features.save(out / f"{name}.npz")
        print(_TICK, flush=True)


def _match(matcher, features_dir: Path, pairs: list[tuple[str, str]], out: Path) -> None:
    from medrecon.matching.match import checked_match

    load = lambda name: Features.load(features_dir / f"{name}.npz")  # noqa: E731
    checked_match(matcher, load(pairs[0][0]), load(pairs[0][1]), tuple(pairs[0]))
    for a, b in pairs:
        features_a, features_b = load(a), load(b)
        start = time.perf_counter()
        matches = checked_match(matcher, features_a, features_b, (a, b))
        ms = 1e3 * (time.perf_counter() - start)
        write_npz(out / f"{a}-{b}.npz", {"idx": matches.idx, "scores": matches.scores, "ms": np.array(ms)})
        print(_TICK, flush=True)


if __name__ == "__main__":
    try:
        _worker(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except MedreconError as e:
        sys.exit(e.cause.replace("\n", " "))  # the last line of the log is what the user is told

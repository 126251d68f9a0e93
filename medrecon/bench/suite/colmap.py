# SPDX-License-Identifier: Apache-2.0
"""The peer ``colmap``: COLMAP's own SIFT, matching and mapper with their defaults, on the same keyframes."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.bench.front_ends import FIGURES, model_figures
from medrecon.bench.suite.cases import key_of
from medrecon.bench.suite.sequences import BenchSequence
from medrecon.bench.suite.street import SuiteOptions, pictures_case
from medrecon.progress import Progress
from medrecon.runfolder import RunFolder
from medrecon.sfm.pycolmap_backend import _load, _quiet, _to_sparse
from medrecon.types.storage import read_json, write_json

NAME = "colmap"
OVERLAP = 6  # neighbours in time that are matched, as for every front end


def records(o: SuiteOptions, progress: Progress) -> dict[str, dict[str, Any]]:
    """Records by name as `runner.run_cases` gives them, a run for every sequence and seed, kept in OUT/cases."""
    out = {}
    for s in o.sequences:
        pictures = pictures_case(s, o, keyframes=True)
        run = RunFolder(o.out / "runs" / pictures.name, done={"source", "keyframes", "masks"})
        for seed in range(o.seeds):
            labels = {"sequence": s.name, "method": NAME, "seed": seed}
            name = f"{pictures.name.removesuffix('keyframes')}{NAME}-seed{seed}"
            path = o.out / "cases" / f"{name}.json"
            key = f"{key_of(pictures, run.root)} {_camera_model(s)} {_version()}"
            record = read_json(path) if path.is_file() else {}
            if record.get("key") != key:
                begun = time.monotonic()
                record = {"labels": labels, "until": NAME, "key": key, "views": [], "stage_seconds": {}}
                record |= _measure(s, run, seed, o.threads)
                record["own_s"] = round(time.monotonic() - begun, 1)
                write_json(path, record)
                progress.say(f"{name}: " + (f"failed: {record['failed']}" if record["failed"] else "done"))
            out[name] = record
    return out


def _version() -> str:
    return str(_load().__version__)


def _camera_model(sequence: BenchSequence) -> str:
    return sequence.config.get("sfm", {}).get("camera_model", "SIMPLE_RADIAL")


def _measure(sequence: BenchSequence, run: RunFolder, seed: int, threads: int) -> dict[str, Any]:
    """Figures of `front_ends.measure`, as far as COLMAP gives them, and ``failed``."""
    pycolmap = _load()
    frames = run.frames.frames
    figures: dict[str, Any] = {**dict.fromkeys(FIGURES), "failed": None, "registered": 0, "points": 0}
    with tempfile.TemporaryDirectory() as scratch:
        folder, masks = Path(scratch) / "images", Path(scratch) / "masks"
        folder.mkdir()
        masks.mkdir()
        for f in frames:
            shutil.copyfile(f.image_path, folder / f"{f.frame_id:06d}.png")
            if f.mask_path is not None:
                shutil.copyfile(f.mask_path, masks / f"{f.frame_id:06d}.png.png")
        reader, n = pycolmap.ImageReaderOptions(), threads or -1
        reader.camera_model = _camera_model(sequence)
        camera = frames[0].camera
        if camera is not None:  # known beforehand, and kept
            reader.camera_model, reader.camera_params = camera.model, ", ".join(map(str, camera.params))
        if any(masks.iterdir()):
            reader.mask_path = masks
        extraction, matching = pycolmap.FeatureExtractionOptions(), pycolmap.FeatureMatchingOptions()
        pairing, mapping = pycolmap.SequentialPairingOptions(), pycolmap.IncrementalPipelineOptions()
        extraction.num_threads = matching.num_threads = mapping.num_threads = n
        pairing.overlap, pairing.quadratic_overlap = OVERLAP, False
        mapping.random_seed = seed
        if camera is not None:
            mapping.ba_refine_focal_length = mapping.ba_refine_extra_params = False
        database = Path(scratch) / "database.db"
        try:
            with _quiet(pycolmap):
                pycolmap.set_random_seed(seed)
                times = [time.monotonic()]
                cpu = pycolmap.Device.cpu
                pycolmap.extract_features(
                    database, folder, camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reader,
                    extraction_options=extraction, device=cpu,
                )  # fmt: skip
                times.append(time.monotonic())
                pycolmap.match_sequential(database, matching_options=matching, pairing_options=pairing, device=cpu)
                times.append(time.monotonic())
                models = pycolmap.incremental_mapping(database, folder, Path(scratch), options=mapping)
                times.append(time.monotonic())
                figures |= {f"{n}_s": b - a for n, a, b in zip(("features", "matching", "sfm"), times, times[1:])}
                figures |= _matches(database)
        except (RuntimeError, ValueError) as e:
            return figures | {"failed": str(e).splitlines()[0]}
        if not models:
            return figures | {"failed": "no model came about"}
        model = max(models.values(), key=lambda m: m.num_reg_images())
        image_of = {int(Path(image.name).stem): i for i, image in model.images.items()}
        return figures | model_figures(_to_sparse(model, image_of), run.truth)


def _matches(database: Path) -> dict[str, float]:
    """Means over the pairs that were tried."""
    with _load().Database.open(str(database)) as opened:
        _, putative = opened.read_all_matches()
        _, verified = opened.read_two_view_geometries()
        keypoints = [opened.num_keypoints_for_image(i.image_id) for i in opened.read_all_images()]
        inliers = [len(v.inlier_matches) for v in verified]
        return {
            "keypoints": float(np.mean(keypoints)),
            "pairs": len(putative),
            "putative_per_pair": float(np.mean([len(m) for m in putative])),
            "verified_per_pair": float(np.sum(inliers) / max(len(putative), 1)),
            "verified_pairs": sum(n > 0 for n in inliers),
        }

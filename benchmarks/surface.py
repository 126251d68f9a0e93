# SPDX-License-Identifier: Apache-2.0
"""Meshers on finished runs: against the truth where there is one, and against the depths of held-out cameras.

    python benchmarks/surface.py RUN [RUN ...] --out DIR [--mesher tsdf] [-o tsdf.resolution=256]

Nothing is written into the runs. The field of each run is meshed by every mesher with its defaults (and the options
given). Figures: the distances of `analysis: truth` in mm (reconstruction to truth, truth to reconstruction), where the
pictures carry truth; and for the cameras that were held out of the training, pixel by pixel, the first hit of the ray
with the mesh against the median depth rendered there, in percent of it: median and 95th percentile, the share of rays
whose hit lies more than 5 % nearer (a floater stands before the surface) or farther (a hole is looked through), and of
opaque rays that hit nothing. The same field gives the same figures; nothing is random. Some minutes on two cores."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import medrecon
from medrecon.analysis.truth import TruthAnalysis, TruthAnalysisConfig
from medrecon.config.run_config import merge, parse_override
from medrecon.progress import Quiet
from medrecon.radiance import load_field
from medrecon.radiance.view_maps import render_maps
from medrecon.runfolder import RunFolder
from medrecon.surface.extract import extract
from medrecon.surface.vtk_mesh import MeshLocator

TRUTH = ("surface_mean_mm", "surface_hd95_mm", "completeness_mean_mm", "completeness_hd95_mm")
FAR = 0.05  # of the depth: farther from it than this is another surface


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, help="folder for surface.json and surface.md")
    parser.add_argument("--mesher", action="append", help="default: tsdf and marching-cubes")
    parser.add_argument("-o", action="append", default=[], metavar="MESHER.KEY=VALUE", help="option of a mesher")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given: dict = {}
    for text in options.o:
        given = merge(given, parse_override(text))
    rows = []
    for root in options.runs:
        run = RunFolder(root)
        renderer, scene = load_field(run)
        maps = {i: render_maps(renderer, scene, scene.cameras[i], scene.cam_from_sfm[i], scene.near_far[i])
                for i in scene.heldout_ids}  # fmt: skip
        for name in options.mesher or ["tsdf", "marching-cubes"]:
            row = {"run": root.name, "renderer": renderer.name, "mesher": name, "options": given.get(name, {})}
            with tempfile.TemporaryDirectory() as out:
                begun, processor = time.perf_counter(), time.process_time()
                mesh = extract(run, medrecon.create("mesher", name, **row["options"]), Path(out), "cpu", Quiet())
                row |= {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - processor}
                row |= {"faces": len(mesh.faces)} | against_depths(run, mesh, scene, maps)
                if run.truth is not None:
                    staged = RunFolder(root, staging={"surface": Path(out)})
                    figures = {m.name: m.value for m in TruthAnalysis(TruthAnalysisConfig()).analyse(staged, Quiet())}
                    row |= {n: figures.get(n) for n in TRUTH}
            rows.append(row)
            print(json.dumps(row), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    machine = {"machine": f"{os.cpu_count()} CPU cores", "threads": options.threads, "torch": torch.__version__}
    (options.out / "surface.json").write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")
    (options.out / "surface.md").write_text(table(rows))
    print((options.out / "surface.md").read_text())


def against_depths(run: RunFolder, mesh, scene, maps: dict) -> dict:
    """Held-out rays: first hits with the mesh against the median depths."""
    metric_from_sfm = run.sparse.scale.metric_from_sfm
    locator = MeshLocator(mesh.vertices, mesh.faces)
    gaps, opaque = [], 0
    for i, view in maps.items():
        camera, pose = scene.cameras[i], metric_from_sfm.transform_pose(scene.cam_from_sfm[i])
        x, y = np.meshgrid(np.arange(0, camera.width_px, 2), np.arange(0, camera.height_px, 2))
        depth = view.median_sfm[y, x].astype(np.float64) * metric_from_sfm.scale
        hit = depth > 0
        opaque += int(hit.sum())
        directions = camera.unproject(np.stack([x, y], -1)[hit] + 0.5) @ pose.rotation  # unit z-depth
        reach = 1.1 * float(np.linalg.norm(mesh.vertices - pose.center, axis=1).max())
        origins = np.broadcast_to(pose.center, directions.shape)
        gaps.append(locator.first_hits(origins, origins + reach * directions) * reach / depth[hit] - 1)
    gap = np.concatenate(gaps)
    found = gap[~np.isnan(gap)]
    percent = lambda x: 100 * float(x)  # noqa: E731
    return {
        "rays": opaque, "gap_median_percent": percent(np.median(np.abs(found))),
        "gap_95_percent": percent(np.percentile(np.abs(found), 95)), "in_front_percent": percent((gap < -FAR).mean()),
        "behind_percent": percent((gap > FAR).mean()), "no_hit_percent": percent(np.isnan(gap).mean()),
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """Markdown."""
    head = ("run", "renderer", "mesher", "accuracy mm (mean / 95 %)", "completeness mm (mean / 95 %)",
            "gap to held-out depth % (median / 95 %)", "hits in front / behind / none %", "triangles", "s")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in rows:
        pair = lambda a, b: "-" if r.get(a) is None else f"{r[a]:.2f} / {r[b]:.2f}"  # noqa: B023, E731
        cells = (
            r["run"], r["renderer"], r["mesher"], pair(*TRUTH[:2]), pair(*TRUTH[2:]),
            pair("gap_median_percent", "gap_95_percent"),
            f"{r['in_front_percent']:.1f} / {r['behind_percent']:.1f} / {r['no_hit_percent']:.1f}",
            str(r["faces"]), f"{r['seconds']:.0f}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

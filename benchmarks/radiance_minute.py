# SPDX-License-Identifier: Apache-2.0
"""How good `mipgrid` is after one minute, and after two and a half, on three scenes with true poses.

    python benchmarks/radiance_minute.py --out DIR [--scenes ct brain fly] [--seconds 60 150] [--seeds 0 1 2]
                                         [--set OPTION=VALUE ...] [--training OPTION=VALUE ...]

Every scene has 80 pictures of 256 x 256, every fourth held out (60 / 20):

    ct      the demo's chest CT (bone) from outside, on the demo's path
    brain   the Colin27 head without its skull (`medrecon data fetch colin27`) from outside, on the same path
    fly     through the airway of the chest CT, with a light at the camera

Options are the defaults, the same for all three; they were chosen on `brain`. The time holds everything from the
posed pictures on, reading them and the visual hull included, but not rendering the held-out ones afterwards. PSNR,
SSIM and LPIPS are means over whole held-out pictures; "fg" is the PSNR over the pixels that show something; depth is
compared with the truth in mm where both see something. A frame is rendered five times, the median counts.

--set and --training try other options (of `mipgrid`, of training); --steps trains for so many steps instead of seconds,
which is the same on a busy machine. A row is kept in DIR/radiance_minute.json when it is done, and not measured again.
On two quiet cores a run takes its seconds plus about 15: all of the table 35 minutes, `--scenes ct` 12.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml

import medrecon
from medrecon.errors import AssetError
from medrecon.images import write_png
from medrecon.radiance import TrainingConfig
from medrecon.radiance.pictures import training_picture
from medrecon.radiance.rendering import render_image

sys.path.insert(0, str(Path(__file__).parent))
import true_pose_scene as scenes

VIEWS, SIZE = 80, 256
AROUND = {"kind": "orbit", "loops": 2, "elevation_deg": (0, 25), "elevation_waves": 5, "radius_factor": 0.85}
FOREGROUND = 4  # least 8-bit value of a pixel that shows something


def views_of(scene: str) -> dict:
    """Options of the views source.  Raises AssetError when the volume is not there."""
    if scene == "ct":
        return {"path": "builtin:chest-ct", "fov_deg": 50.0, "camera_path": AROUND}
    if scene == "fly":
        path = {"kind": "fly-through", "through": "airway"}
        inside = {"transfer": "airway", "light": "headlight", "camera_path": path}
        return {"path": "builtin:chest-ct", "fov_deg": 90.0, **inside}
    from medrecon.assets.store import require

    path = require("colin27")
    brain = {"transfer": "brain-surface", "crop": "brain", "camera_path": AROUND}
    return {"path": str(path), "fov_deg": 50.0, **brain}


def measure(problem: scenes.Problem, field, scene) -> tuple[dict, list[np.ndarray]]:
    """Figures over the held-out pictures, and two of them beside the truth."""
    metrics = {n: medrecon.create("metric", n) for n in ("psnr", "ssim", "lpips")}
    frames = problem.frames.by_id()
    values: dict[str, list[float]] = {n: [] for n in (*metrics, "fg", "frame_ms")}
    gaps, shown = [], []
    for k, i in enumerate(scene.heldout_ids):
        true = training_picture(frames[i], scene.cameras[i])[0]
        for _ in range(5 if k == 0 else 1):
            begun = time.perf_counter()
            rgb, depth, _ = render_image(field, scene, scene.cameras[i], scene.cam_from_sfm[i], scene.near_far[i], i)
            values["frame_ms"].append(1e3 * (time.perf_counter() - begun))
        for name, metric in metrics.items():
            try:
                values[name].append(metric.measure(rgb, true))
            except AssetError:  # LPIPS without its weights: the column stays empty
                continue
        error = ((rgb.astype(np.float64) - true) / 255) ** 2
        values["fg"].append(-10 * np.log10(error[true.max(-1) >= FOREGROUND].mean()))
        true_depth = scenes.truth_depth(problem.truth, i)
        both = (depth > 0) & (true_depth > 0)
        gaps.append(np.abs(depth - true_depth)[both])
        if k % (len(scene.heldout_ids) // 2) == 0:
            shown.append(np.concatenate([true, rgb], 1))
    frame_ms = float(np.median(values.pop("frame_ms")[:5]))
    gaps = np.concatenate(gaps)
    means = {n: float(np.mean(v)) if v else None for n, v in values.items()}
    return {
        **means,
        "frame_ms": frame_ms,
        "depth_mm": float(gaps.mean()),
        "depth_median_mm": float(np.median(gaps)),
    }, shown


def table(rows: list[dict], about: dict) -> str:
    """Markdown: a line for each scene and length, mean over the seeds and least of them."""
    lines = [
        f"mipgrid, 80 pictures of 256 x 256, 60 trained on and 20 held out, true poses; {about['machine']}, "
        f"{about['threads']} threads.",
        "",
        "| scene | trained | seeds | PSNR dB (least) | foreground dB (least) | SSIM | LPIPS | depth error mm (median) "
        "| steps | frame ms |",
        "|" + "---|" * 10,
    ]
    for key in sorted({(r["scene"], r["asked"]) for r in rows}, key=str):
        group = [r for r in rows if (r["scene"], r["asked"]) == key]
        mean = {n: np.mean([r[n] for r in group]) for n in group[0] if isinstance(group[0][n], float | int)}
        lpips = f"{mean['lpips']:.3f}" if "lpips" in mean else "–"
        lines.append(
            f"| {key[0]} | {key[1]} | {', '.join(str(r['seed']) for r in group)} | {mean['psnr']:.2f} "
            f"({min(r['psnr'] for r in group):.2f}) | {mean['fg']:.2f} ({min(r['fg'] for r in group):.2f}) | "
            f"{mean['ssim']:.4f} | {lpips} | {mean['depth_mm']:.2f} ({mean['depth_median_mm']:.2f}) | "
            f"{mean['steps']:.0f} | {mean['frame_ms']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Trains and measures what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", nargs="+", choices=("ct", "brain", "fly"), default=["ct", "brain", "fly"])
    parser.add_argument("--seconds", nargs="+", type=float, default=[60, 150])
    parser.add_argument("--steps", type=int, help="train for so many steps instead")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], metavar="OPTION=VALUE", help="options of mipgrid to try")
    parser.add_argument("--training", nargs="+", default=[], metavar="OPTION=VALUE", help="options of training to try")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parsed = [
        {k: yaml.safe_load(v) for k, v in (x.split("=", 1) for x in given)} for given in (options.set, options.training)
    ]
    about = {"schema": 1, **scenes.machine(), "mipgrid": parsed[0], "training": parsed[1]}
    file = options.out / "radiance_minute.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    for name in options.scenes:
        views = options.out / "views" / name
        problem = scenes.make(views, n_views=VIEWS, image_size_px=(SIZE, SIZE), **views_of(name))
        for asked in [f"{options.steps} steps"] if options.steps else [f"{s:g} s" for s in options.seconds]:
            length = {"iterations": options.steps} if options.steps else {"minutes": float(asked.split()[0]) / 60}
            for seed in options.seeds:
                if any((r["scene"], r["asked"], r["seed"]) == (name, asked, seed) for r in rows):
                    continue
                training = TrainingConfig(
                    **{"max_size_px": SIZE, "holdout_every": 4, "evaluate_every": 0, "checkpoint_seconds": 1e6}
                    | length
                    | parsed[1]
                )
                begun = time.monotonic()
                field, scene, took = scenes.trained(problem, options.out / "work", "mipgrid", parsed[0], training, seed)
                took["wall_s"] = round(time.monotonic() - begun, 1)
                figures, shown = measure(problem, field, scene)
                rows.append({"scene": name, "asked": asked, "seed": seed, **took, **figures})
                write_png(options.out / f"{name}-{asked.replace(' ', '-')}-{seed}.png", np.concatenate(shown[:2]))
                file.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
                (options.out / "radiance_minute.md").write_text(table(rows, about))
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows, about))
    return 0


if __name__ == "__main__":
    sys.exit(main())

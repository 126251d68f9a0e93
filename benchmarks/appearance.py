# SPDX-License-Identifier: Apache-2.0
"""What an appearance code per picture is worth where every picture is exposed otherwise.

    python benchmarks/appearance.py --out DIR [--seconds 50] [--seed 0] [--renderer mipgrid]

The demo's scene, 80 views of the chest CT with their true poses, but of a camera that sets itself anew for every
picture: gain (standard deviation of the logarithm 0.3), gamma (0.2), red and blue (0.1), and one picture in four strays
twice as far. The field is trained twice for the same wall time, everything but compilation included, and with the same
seed: with codes (48 numbers a picture) and without. Every eighth picture is held out; no picture tells how it is
exposed, so what is held out can be met only where something is known of it:

    zero, mean, nearest   a code that knows nothing of the picture
    fitted                a code fitted to the picture's left half, the field frozen; only the right half is measured
    colours fitted        a control: the field without codes, gain and offset of each channel fitted to the left half

Depth is compared with the true one in mm, where both see something. DIR gets appearance.json, appearance.md and
appearance.png (pictures, and what each way shows in their place). On two quiet cores: 3 to 4 minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch

import medrecon
from medrecon.images import write_png
from medrecon.radiance import Renderer, Scene, TrainingConfig
from medrecon.radiance.pictures import training_picture
from medrecon.radiance.rendering import render_image
from medrecon.radiance.view_appearance import HeldoutAppearance

sys.path.insert(0, str(Path(__file__).parent))
import true_pose_scene as scenes
from multiscale import side_by_side

EXPOSURE = {"exposure_jitter": 0.3, "gamma_jitter": 0.2, "white_balance_jitter": 0.1, "strong_share": 0.25}
SHOWN = 3  # held-out pictures


def rendered(problem: scenes.Problem, field: Renderer, scene: Scene, mode: str) -> dict[int, tuple]:
    """By held-out frame: rgb uint8 [H, W, 3], depth float32 [H, W] in mm."""
    heldout, out = HeldoutAppearance(mode, field, scene, problem.frames), {}
    for i in scene.heldout_ids:
        camera = scene.cameras[i]
        look = heldout.of(i, camera)
        pose, near_far = scene.cam_from_sfm[i], scene.near_far[i]
        out[i] = render_image(field, scene, camera, pose, near_far, look.frame_id, look.appearance)[:2]
    return out


def colours_fitted(image: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Gain and offset of each channel from the left half's least squares, applied to the whole picture."""
    half, out = image.shape[1] // 2, image.astype(np.float64)
    for c in range(3):
        a = np.stack([out[:, :half, c].ravel(), np.ones(half * len(image))], -1)
        gain, offset = np.linalg.lstsq(a, true[:, :half, c].ravel().astype(np.float64), rcond=None)[0]
        out[..., c] = gain * out[..., c] + offset
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def measure(views: dict[int, tuple], truth: dict[int, np.ndarray], whole: bool) -> dict:
    """PSNR and SSIM over right halves, and over whole pictures where none of them taught anything."""
    metrics = {n: medrecon.create("metric", n) for n in ("psnr", "ssim")}
    out = {}
    for part, counted in (("right", np.s_[:, next(iter(truth.values())).shape[1] // 2 :]), ("whole", np.s_[:])):
        for name, metric in metrics.items():
            values = [metric.measure(views[i][0][counted], truth[i][counted]) for i in truth]
            out[f"{name}_{part}"] = float(np.mean(values)) if whole or part == "right" else None
    return out


def depth_error(problem: scenes.Problem, views: dict[int, tuple]) -> dict:
    """Mean absolute and median error in mm over the pixels where rendered and true depth see something."""
    gaps, hit, n = [], 0, 0
    for i, (_, depth) in views.items():
        true = scenes.truth_depth(problem.truth, i)
        both = (depth > 0) & (true > 0)
        gaps.append(np.abs(depth - true)[both])
        hit, n = hit + both.sum(), n + (true > 0).sum()
    gaps = np.concatenate(gaps)
    return {"depth_mae_mm": float(gaps.mean()), "depth_median_mm": float(np.median(gaps)), "depth_seen": float(hit / n)}


def table(rows: list[dict], about: dict) -> str:
    """Markdown."""
    number = lambda value, digits: "–" if value is None else f"{value:.{digits}f}"  # noqa: E731
    lines = [
        f"{about['scene']}; {about['machine']}, {about['threads']} threads, seed {about['seed']}.",
        "",
        "| codes | held-out views get | right half: PSNR dB | SSIM | whole: PSNR dB | SSIM | depth error mm "
        "| its median | steps | s |",
        "|" + "---|" * 10,
    ]
    for r in rows:
        lines.append(
            f"| {r['codes']} | {r['appearance']} | {number(r['psnr_right'], 2)} | {number(r['ssim_right'], 4)} | "
            f"{number(r['psnr_whole'], 2)} | {number(r['ssim_whole'], 4)} | {r['depth_mae_mm']:.2f} | "
            f"{r['depth_median_mm']:.2f} | {r['steps']} | {r['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Trains twice, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=50.0, help="training of each field")
    parser.add_argument("--steps", type=int, help="train both for so many steps instead: the same on a busy machine")
    parser.add_argument("--renderer", default="mipgrid")
    parser.add_argument("--views", type=int, default=80)
    parser.add_argument("--size", type=int, default=256, help="side of the pictures, px")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the fields; exposures are those of seed 0")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    problem = scenes.make(
        options.out / f"views-{options.views}-{options.size}", path="builtin:chest-ct", n_views=options.views,
        image_size_px=(options.size,) * 2, fov_deg=40.0, transfer="bone", **EXPOSURE,
    )  # fmt: skip
    length = {"iterations": options.steps} if options.steps else {"minutes": options.seconds / 60}
    training = TrainingConfig(max_size_px=options.size, evaluate_every=0, checkpoint_seconds=1e6, **length)
    about = {
        "schema": 1, **scenes.machine(), "seed": options.seed, "renderer": options.renderer, "exposure": EXPOSURE,
        "scene": f"{options.renderer}, builtin:chest-ct, bone, {options.views} views of {options.size} px exposed at "
        "random, true poses, every 8th held out",
    }  # fmt: skip
    rows, columns = [], {}

    def add(codes: str, appearance: str, views: dict[int, tuple], whole: bool, took: dict) -> None:
        rows.append(
            {"codes": codes, "appearance": appearance, **measure(views, truth, whole), **depth_error(problem, views),
             **took}
        )  # fmt: skip
        columns[f"{codes}: {appearance.split()[0]}"] = [views[i][0] for i in shown]
        print(table(rows[-1:], about).splitlines()[-1], flush=True)

    for codes, extra in (("without", {"appearance_size": 0}), ("with", {})):
        field, scene, took = scenes.trained(
            problem, options.out / "work", options.renderer, extra, training, options.seed
        )
        frames = problem.frames.by_id()
        truth = {i: training_picture(frames[i], scene.cameras[i])[0] for i in scene.heldout_ids}
        shown = scene.heldout_ids[:: -(-len(truth) // SHOWN)]
        columns.setdefault("picture, held out", [truth[i] for i in shown])
        if codes == "without":
            views = rendered(problem, field, scene, "zero")
            add(codes, "none", views, True, took)
            views = {i: (colours_fitted(rgb, truth[i]), depth) for i, (rgb, depth) in views.items()}
            add(codes, "colours fitted on the left half", views, False, took)
            continue
        for mode in ("zero", "mean", "nearest", "fitted"):
            begun = time.monotonic()
            views = rendered(problem, field, scene, mode)
            took = {**took, "render_seconds_per_view": round((time.monotonic() - begun) / len(views), 2)}
            words = HeldoutAppearance(mode, field, scene, problem.frames).words
            add(codes, words, views, mode != "fitted", took)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "appearance.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    (options.out / "appearance.md").write_text(table(rows, about))
    small = {k: [cv2.resize(p, (176, 176), interpolation=cv2.INTER_AREA) for p in v] for k, v in columns.items()}
    write_png(options.out / "appearance.png", side_by_side(small, 176))
    return 0


if __name__ == "__main__":
    sys.exit(main())

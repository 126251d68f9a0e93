# SPDX-License-Identifier: Apache-2.0
"""`mipnerf` beside `nerf`, and `mipgrid`, on held-out views in four sizes: full, 1/2, 1/4 and 1/8.

    python benchmarks/multiscale.py --out DIR [--seconds 110] [--views 64] [--size 192]

The scene is the chest CT of the package with its true poses; every eighth picture is held out. All three are trained
from all four sizes (training option `scales`) for the same wall time, everything but compilation included. Apart from
networks of 64 units, so that a minute teaches them something, `nerf` and `mipnerf` keep their defaults, which are the
same. `nerf` and `mipnerf` get the same rays step by step; whichever was quicker is trained a second
time for only as many steps as the other one reached. (`mipgrid` chooses the number of its rays itself.) The truth of a
small view is the full one reduced by areas.

DIR gets multiscale.json, multiscale.md and multiscale.png: one held-out view in its three small sizes, all beside the
truth. On two quiet cores the whole takes eight minutes. Figures:

    PSNR, SSIM    means over the held-out views, whole pictures
    detail        root mean square of the pictures' Laplacian, rendered by true: less than 1 is blurred, more aliased
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

sys.path.insert(0, str(Path(__file__).parent))
import true_pose_scene as scenes

SCALES = (1.0, 0.5, 0.25, 0.125)
NAMES = ("1", "1/2", "1/4", "1/8")
CAPTION_PX = 18


def train(problem: scenes.Problem, folder: Path, name: str, length: dict, options: argparse.Namespace) -> tuple:
    """(field, scene, figures of its training); ``length``: minutes or iterations."""
    training = TrainingConfig(
        max_size_px=options.size, pyramid=(), scales=SCALES, evaluate_every=0, checkpoint_seconds=1e6, **length
    )
    width = {} if name == "mipgrid" else {"width": options.width}
    return scenes.trained(problem, folder, name, width, training, options.seed)


def views(problem: scenes.Problem, field: Renderer, scene: Scene) -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
    """By held-out frame: (rendered, true) uint8 [H, W, 3] in each size."""
    frames, out = problem.frames.by_id(), {}
    for i in scene.heldout_ids:
        camera = scene.cameras[i]
        full = training_picture(frames[i], camera)[0]
        out[i] = []
        for scale in SCALES:
            small = camera.scaled(round(camera.width_px * scale), round(camera.height_px * scale))
            true = cv2.resize(full, (small.width_px, small.height_px), interpolation=cv2.INTER_AREA)
            out[i].append((render_image(field, scene, small, scene.cam_from_sfm[i], scene.near_far[i], i)[0], true))
    return out


def measure(pictures: dict[int, list[tuple[np.ndarray, np.ndarray]]]) -> list[dict]:
    """Figures of each size."""
    psnr, ssim = medrecon.create("metric", "psnr"), medrecon.create("metric", "ssim")
    rows = []
    for k in range(len(SCALES)):
        pairs = [of_view[k] for of_view in pictures.values()]
        detail = [np.sqrt((_laplacian(a) ** 2).mean() / (_laplacian(b) ** 2).mean()) for a, b in pairs]
        rows.append(
            {
                "scale": NAMES[k],
                "psnr_db": float(np.mean([psnr.measure(a, b) for a, b in pairs])),
                "ssim": float(np.mean([ssim.measure(a, b) for a, b in pairs])),
                "detail": float(np.mean(detail)),
            }
        )
    return rows


def _laplacian(image: np.ndarray) -> np.ndarray:
    return cv2.Laplacian(image.astype(np.float32), cv2.CV_32F)


def side_by_side(columns: dict[str, list[np.ndarray]], side: int) -> np.ndarray:
    """A row for each size, enlarged without smoothing; a column for each caption."""
    stacks = []
    for caption, pictures in columns.items():
        head = np.zeros((CAPTION_PX, side, 3), np.uint8)
        cv2.putText(head, caption, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
        large = [cv2.resize(p, (side, side), interpolation=cv2.INTER_NEAREST) for p in pictures]
        stacks.append(np.vstack([head, *large]))
    return np.hstack(stacks)


def table(rows: list[dict], about: dict) -> str:
    """Markdown."""
    lines = [
        f"{about['scene']}; {about['machine']}, {about['threads']} threads, seed {about['seed']}.",
        "",
        "| field | trained | steps | " + " | ".join(f"{n}: dB / SSIM / detail" for n in NAMES) + " |",
        "|" + "---|" * (3 + len(NAMES)),
    ]
    for row in rows:
        cells = [f"{s['psnr_db']:.2f} / {s['ssim']:.4f} / {s['detail']:.2f}" for s in row["sizes"]]
        lines.append(f"| {row['field']} | {row['trained']} | {row['steps']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Trains, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=110.0, help="training of each field")
    parser.add_argument("--steps", type=int, help="train all for so many steps instead: the same on a busy machine")
    parser.add_argument("--views", type=int, default=64)
    parser.add_argument("--size", type=int, default=192, help="side of the full pictures, px")
    parser.add_argument("--width", type=int, default=64, help="hidden units of nerf and mipnerf")
    parser.add_argument("--fields", nargs="+", default=["nerf", "mipnerf", "mipgrid"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    problem = scenes.make(
        options.out / f"views-{options.views}-{options.size}", path="builtin:chest-ct", n_views=options.views,
        image_size_px=(options.size,) * 2, fov_deg=40.0, transfer="bone",
    )  # fmt: skip
    rows, shown, truth = [], {}, None

    def add(name: str, length: dict, caption: str) -> int:
        nonlocal truth
        field, scene, took = train(problem, options.out / "work", name, length, options)
        begun = time.monotonic()
        pictures = views(problem, field, scene)
        rows.append({"field": name, "trained": caption, **took, "sizes": measure(pictures)})
        middle = pictures[scene.heldout_ids[len(scene.heldout_ids) // 2]]
        truth = [true for _, true in middle[1:]]
        shown[f"{name}, {took['steps']} steps"] = [rendered for rendered, _ in middle[1:]]
        print(f"{table(rows[-1:], about).splitlines()[-1]} (pictures: {time.monotonic() - begun:.0f} s)", flush=True)
        return took["steps"]

    about = {
        "schema": 1, **scenes.machine(), "seed": options.seed,
        "scene": f"builtin:chest-ct, bone, {options.views} views of {options.size} px, true poses, every 8th held out",
        "scales": SCALES, "width": options.width,
    }  # fmt: skip
    if options.steps:
        for name in options.fields:
            add(name, {"iterations": options.steps}, "equal steps")
    else:
        steps = {n: add(n, {"minutes": options.seconds / 60}, f"{options.seconds:g} s") for n in options.fields}
        pair = {n: s for n, s in steps.items() if n in ("nerf", "mipnerf")}
        if len(pair) == 2:
            slow, quick = sorted(pair, key=pair.get)
            add(quick, {"iterations": pair[slow]}, f"as many steps as {slow}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "multiscale.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    (options.out / "multiscale.md").write_text(table(rows, about))
    write_png(options.out / "multiscale.png", side_by_side({"truth, area-reduced": truth, **shown}, options.size))
    return 0


if __name__ == "__main__":
    sys.exit(main())

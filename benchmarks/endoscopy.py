# SPDX-License-Identifier: Apache-2.0
"""What helps a radiance field of an endoscopic video: appearance codes, masks, sparse points, a light on the camera.

    python benchmarks/endoscopy.py --clip FILE --out DIR [--rows NAME ...] [--steps N] [--seed N] [--threads N]

FILE is a video. Poses are found once, with the preset endoscopy (on two cores 4.5 minutes for ten seconds of video);
they are kept in DIR/run and used again by the next call. Then every row trains a field of its own: mipgrid in about
15 s per 1000 steps, mipnerf in a minute. Every eighth picture is held out, and a fifth of the sparse points, from
training and from all that is derived from them. DIR gets endoscopy.json and .md, three views of the first row
(picture, rendering and depth side by side) and a video of its depth along the cameras' path.

PSNR and SSIM: held-out pictures outside the glare, whatever a row was trained on, with the appearance code of the
picture nearest in time, as the preset has it; in brackets the PSNR with the mean of all codes. Depth error: of points
held out in pictures held out, |rendered - triangulated| / triangulated. Before: the mean share of light lost between
the lens and 85 % of the way to such a point, where there is nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import medrecon
from medrecon.errors import MedreconError
from medrecon.images import write_png
from medrecon.ingest.masks import MaskConfig, write_masks
from medrecon.metrics.images import Psnr, PsnrConfig, Ssim, SsimConfig
from medrecon.progress import Quiet
from medrecon.radiance import Scene, TrainingConfig
from medrecon.radiance.paths import through_cameras
from medrecon.radiance.pictures import training_picture
from medrecon.radiance.renderer import Renderer
from medrecon.radiance.rendering import render_image
from medrecon.radiance.train import train
from medrecon.radiance.video import write_mp4
from medrecon.radiance.view_appearance import HeldoutAppearance
from medrecon.report.pictures import heat
from medrecon.runfolder import RunFolder
from medrecon.types import FrameSet, RayBatch, SparseModel
from medrecon.types.storage import write_bytes_atomic

ROWS = {
    "mipgrid": {},
    "without appearance codes": {"renderer": {"appearance_size": 0}},
    "without specular masks": {"specular": False},
    "without sparse points": {"training": {"depth_weight": 0.0}},
    "light on the camera": {"renderer": {"light": "camera"}},
    "light on the camera, with the cosine": {"renderer": {"light": "camera-cosine"}},
    "unbounded": {"training": {"unbounded": True}},
    "mipnerf": {"name": "mipnerf"},
    "mipnerf without sparse points": {"name": "mipnerf", "training": {"depth_weight": 0.0}},
}
MIPNERF_STEPS = 1500
FREE = 0.85  # of the way to a point


def parts(sparse: SparseModel, share: float = 0.2, seed: int = 7) -> tuple[SparseModel, SparseModel]:
    """The model with most of its points, and with the others."""
    held = np.random.default_rng(seed).random(len(sparse.points)) < share
    return _subset(sparse, ~held), _subset(sparse, held)


def _subset(sparse: SparseModel, keep: np.ndarray) -> SparseModel:
    lengths = np.diff(sparse.track_offsets)
    seen = np.repeat(keep, lengths)
    return replace(
        sparse, points=sparse.points[keep], colors=sparse.colors[keep], errors_px=sparse.errors_px[keep],
        track_frame_ids=sparse.track_frame_ids[seen], track_keypoint_idx=sparse.track_keypoint_idx[seen],
        track_offsets=np.concatenate([[0], np.cumsum(lengths[keep])]),
        track_xy=None if sparse.track_xy is None else sparse.track_xy[seen],
    ).validate()  # fmt: skip


def lines_of_sight(scene: Scene, points: SparseModel, frame_id: int) -> tuple[RayBatch, torch.Tensor]:
    """Rays from a picture to the points it sees (of three views or more), and their z-depths [N] in field units."""
    lengths = np.diff(points.track_offsets)
    owner = np.repeat(np.arange(len(points.points)), lengths)
    index = owner[(points.track_frame_ids == frame_id) & (lengths[owner] >= 3)]
    pose = scene.cam_from_field(scene.cam_from_sfm[frame_id])
    xyz = scene.field_from_sfm.apply(points.points[index])
    depth = pose.apply(xyz)[:, 2]
    tensor = lambda x: torch.from_numpy(np.ascontiguousarray(x, np.float32))  # noqa: E731
    near, far = (tensor(np.full((len(index), 1), x)) for x in scene.near_far[frame_id])
    radius = scene.rays(frame_id, stride=16).radii.median()
    rays = RayBatch(
        tensor(np.broadcast_to(pose.center, xyz.shape)), tensor((xyz - pose.center) / depth[:, None]),
        radius.expand(len(index), 1), near, far, torch.full((len(index),), frame_id),
    )  # fmt: skip
    return scene.clip_to_bounds(rays), tensor(depth)


@torch.inference_mode()
def measure(renderer: Renderer, scene: Scene, frames: FrameSet, points: SparseModel) -> dict:
    """Figures of a trained field; ``frames`` bring the masks within which the pictures are compared."""
    errors, before = [], []
    values: dict[str, list[float]] = {"psnr_db": [], "ssim": [], "psnr_mean_code_db": []}
    nearest = HeldoutAppearance("nearest", renderer, scene, frames)
    for i in scene.heldout_ids:
        rays, depth = lines_of_sight(scene, points, i)
        out = renderer.render(rays, "mean")
        errors.append(torch.where(out.opacity > 0.1, (out.depth - depth).abs() / depth, 1.0))
        short = replace(rays, far=torch.maximum(rays.near, torch.minimum(rays.far, FREE * depth[:, None])))
        before.append(renderer.render_basic(short, "mean").opacity)
        image, mask = training_picture(frames.by_id()[i], scene.cameras[i])
        place = (scene.cameras[i], scene.cam_from_sfm[i], scene.near_far[i])
        look = nearest.of(i, scene.cameras[i])
        rgb = render_image(renderer, scene, *place, look.frame_id, look.appearance)[0]
        values["psnr_db"].append(Psnr(PsnrConfig()).measure(rgb, image, mask))
        values["ssim"].append(Ssim(SsimConfig()).measure(rgb, image, mask))
        mean = render_image(renderer, scene, *place, i)[0]
        values["psnr_mean_code_db"].append(Psnr(PsnrConfig()).measure(mean, image, mask))
    error = torch.cat(errors).numpy()
    return {
        **{name: float(np.mean(of_views)) for name, of_views in values.items()},
        "depth_error_median_percent": 100 * float(np.median(error)),
        "depth_error_90th_percent": 100 * float(np.percentile(error, 90)),
        "before_percent": 100 * float(torch.cat(before).mean()),
        "points": len(error),
    }


def pictures(renderer: Renderer, scene: Scene, frames: FrameSet, points: SparseModel, out: Path) -> None:
    """Three views and the depth along the path of the cameras; near is bright."""
    depths = np.concatenate([lines_of_sight(scene, points, i)[1].numpy() for i in scene.train_ids])
    low, high = np.percentile(depths, [1, 99]) / scene.field_from_sfm.scale * [0.8, 1.2]
    shade = lambda depth: heat(np.where(depth > 0, 1 - (depth - low) / (high - low), 0))  # noqa: E731
    ids = [scene.heldout_ids[k] for k in np.linspace(0, len(scene.heldout_ids) - 1, 3).round().astype(int)]
    for i in ids:
        camera = scene.cameras[i]
        rgb, depth, _ = render_image(renderer, scene, camera, scene.cam_from_sfm[i], scene.near_far[i], i)
        image = training_picture(frames.by_id()[i], camera)[0]
        write_png(out / f"view-{i:06d}.png", np.concatenate([image, rgb, shade(depth)], 1))
    first = scene.train_ids[0]
    camera = scene.cameras[first].scaled(
        176, 2 * round(88 * scene.cameras[first].height_px / scene.cameras[first].width_px)
    )

    def film() -> Iterator[np.ndarray]:
        for pose in through_cameras(scene, 48):
            rgb, depth, _ = render_image(renderer, scene, camera, pose, scene.near_far[first], -1)
            yield np.concatenate([rgb, shade(depth)], 1)

    if write_mp4(out / "depth.mp4", film(), (2 * camera.width_px, camera.height_px), 12) is None:
        print("no depth video: this OpenCV build writes none of the mp4 codecs that were tried")


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = [
        "| field | steps | PSNR dB (mean code) | SSIM | depth error, median / 90th % | before % | training s |",
        "|---|" + "---|" * 6,
    ]
    for r in rows:
        depth = f"{r['depth_error_median_percent']:.2f} / {r['depth_error_90th_percent']:.1f}"
        figures = (
            f"{r['psnr_db']:.2f} ({r['psnr_mean_code_db']:.2f}) | {r['ssim']:.3f} | {depth} | {r['before_percent']:.1f}"
        )
        lines.append(f"| {r['row']} | {r['steps']} | {figures} | {r['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Prints the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="NAME", default=list(ROWS), help=", ".join(ROWS))
    parser.add_argument("--steps", type=int, help="of each training; default: mipgrid as the preset, mipnerf 1500")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = medrecon.load_config({"preset": "endoscopy", "source": {"name": "video", "path": str(options.clip)}})
    medrecon.run(config, options.out / "run", until="sfm")
    run = RunFolder(options.out / "run")
    kept, points = parts(run.sparse)
    preset = config.to_dict()
    unmasked, border = FrameSet.load(run.stage_dir("keyframes") / "frames.json"), None
    rows = []
    for name in options.rows:
        row = ROWS[name]
        frames = run.frames
        if not row.get("specular", True):
            border = border or write_masks(unmasked, MaskConfig(), options.out / "border", Quiet())
            frames = border
        kind = row.get("name", "mipgrid")
        named = preset["radiance"] if preset["radiance"]["name"] == kind else {}
        renderer = medrecon.create("renderer", **{**named, "name": kind, **row.get("renderer", {})})
        steps = options.steps or (MIPNERF_STEPS if kind == "mipnerf" else preset["training"]["iterations"])
        steps = steps or renderer.iterations
        more = {"iterations": steps, "evaluate_every": 0, **row.get("training", {})}
        training = TrainingConfig(**{**preset["training"], **more})
        begun = time.perf_counter()
        folder = options.out / "fields" / name.replace(" ", "-")
        train(frames, kept, renderer, training, folder, options.seed, "cpu", Quiet())
        seconds = time.perf_counter() - begun
        scene = Scene.load(folder / "scene.json")
        renderer.eval()
        rows.append({"row": name, "steps": steps, "seconds": seconds, **measure(renderer, scene, run.frames, points)})
        print(table(rows[-1:]).splitlines()[-1], flush=True)
        if name == options.rows[0]:
            pictures(renderer, scene, run.frames, points, options.out)
    about = {"machine": f"{options.threads} CPU cores", "seed": options.seed, "pictures": len(run.frames), "rows": rows}
    write_bytes_atomic(options.out / "endoscopy.json", (json.dumps(about, indent=1) + "\n").encode())
    write_bytes_atomic(options.out / "endoscopy.md", table(rows).encode())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MedreconError as e:
        sys.exit(str(e))

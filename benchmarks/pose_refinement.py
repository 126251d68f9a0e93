# SPDX-License-Identifier: Apache-2.0
"""What refining the poses beside the field gives, on the demo's chest CT.

    python benchmarks/pose_refinement.py --out DIR --run RUN [--cases true perturbed recovered] [--steps N] [--seed N]

RUN is a finished run of `medrecon demo`: its pictures, its recovered poses and its truth are taken. Three cases:

    true        the true poses, which refinement can only spoil
    perturbed   the true poses, each turned about a random axis by |N(0, 1)| x 0.5 degrees and shifted by N(0, 1) x 1 %
                of its distance to the scene's middle, spread evenly over the three axes (seed 7)
    recovered   those that structure from motion found in RUN

Each is trained with training.pose_refinement off and on, with default settings but the number of steps. Pose errors are
those of the training views, after the best similarity to the truth. PSNR is the mean over the held-out views at the
size of training, rendered from

    sfm         their own poses of the case, which no field has touched
    fitted      poses fitted to the whole held-out picture, the field held still; done for both, refined or not
    half        poses fitted to the left half of each picture; the figure is that of the right half alone, which shows
                whether six numbers of a pose can flatter a figure

A row is kept in DIR/pose_refinement.json when it is done, and not measured again. About 40 s a row on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import medrecon
from medrecon.metrics.poses import align_trajectories, pose_errors
from medrecon.progress import Quiet
from medrecon.radiance import Scene, TrainingConfig, load_field
from medrecon.radiance.direct_alignment import Picture, pictures, rigid_motion
from medrecon.radiance.pose_refinement import HELDOUT_PIXELS, HELDOUT_ROUNDS, realigned
from medrecon.radiance.rendering import render_image
from medrecon.radiance.train import train
from medrecon.runfolder import RunFolder
from medrecon.types import Rigid3, SparseModel, Truth

sys.path.insert(0, str(Path(__file__).parent))
import true_pose_scene as scenes

TURN_DEG, SHIFT = 0.5, 0.01
CASES = ("true", "perturbed", "recovered")


def problem(run: RunFolder, case: str) -> SparseModel:
    """The run's sparse model with the poses of the case, in the frame and unit of the run's own poses."""
    sparse, truth = run.sparse, run.truth
    if case == "recovered":
        return sparse
    sfm_from_true = align_trajectories(truth.cam_from_world_mm, sparse.cam_from_world)
    poses = {i: sfm_from_true.transform_pose(truth.cam_from_world_mm[i]) for i in sparse.cam_from_world}
    if case == "perturbed":
        draw, middle = np.random.default_rng(7), np.median(sparse.points, 0)
        for i, pose in poses.items():
            axis = draw.normal(size=3)
            turn = axis / np.linalg.norm(axis) * np.radians(TURN_DEG) * abs(draw.normal())
            motion = rigid_motion(torch.tensor([*turn, 0.0, 0.0, 0.0], dtype=torch.float64)).numpy()
            away = SHIFT * np.linalg.norm(pose.center - middle) / np.sqrt(3)
            rotation, centre = motion[:3, :3] @ pose.rotation, pose.center + away * draw.normal(size=3)
            poses[i] = Rigid3(rotation, -rotation @ centre)
    return replace(sparse, cam_from_world=poses, cameras={i: truth.cameras[i] for i in poses})


def psnr(field, scene: Scene, views: list[Picture], poses: dict[int, Rigid3], first: float = 0.0) -> float:
    """Mean over the views from these poses (camera from field), of the columns from ``first`` (a share) on."""
    values, sfm_from_field = [], scene.field_from_sfm.inverse()
    for view in views:
        i = view.frame_id
        pose = sfm_from_field.transform_pose(poses[i])
        rgb = render_image(field, scene, scene.cameras[i], pose, scene.near_far[i], i)[0]
        error = ((rgb.astype(np.float64) - view.image.numpy()) / 255)[:, round(first * rgb.shape[1]) :] ** 2
        values.append(-10 * np.log10(error.mean()))
    return float(np.mean(values))


def left_half(view: Picture) -> Picture:
    """The picture, of which only what lies left of the middle tells a pose."""
    h, w = view.usable.shape
    usable = view.usable.clone()
    usable[:, w // 2 - 1 :] = False
    return replace(view, usable=usable, candidates=view.candidates[view.candidates % w < w // 2 - 1])


def measure(run: RunFolder, case: str, refine: bool, steps: int, seed: int, folder: Path) -> dict:
    """Trains and measures one row of the table."""
    truth: Truth = run.truth
    sparse, frames = problem(run, case), run.frames
    training = TrainingConfig(iterations=steps, evaluate_every=0, pose_refinement="all" if refine else "none")
    out = folder / "stages" / "radiance"
    for old in out.glob("*"):
        old.unlink()
    begun, cpu = time.monotonic(), time.process_time()
    train(frames, sparse, medrecon.create("renderer", "mipgrid"), training, out, seed, "cpu", Quiet())
    seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    field, scene = load_field(RunFolder(folder))
    true = truth.cam_from_world_mm
    errors = pose_errors({i: scene.cam_from_sfm[i] for i in scene.train_ids}, true)
    views = pictures(scene, frames, scene.heldout_ids)
    own = {i: scene.cam_from_field(sparse.cam_from_world[i]) for i in scene.heldout_ids}

    def fitted(views: list[Picture]) -> dict[int, Rigid3]:
        poses, generator = own, torch.Generator().manual_seed(0)
        for _ in range(HELDOUT_ROUNDS):
            poses = realigned(field, scene, views, poses, HELDOUT_PIXELS, generator, "mean")
        return poses

    halves = fitted([left_half(v) for v in views])
    return {
        "case": case, "refined": refine, "steps": steps, "seed": seed,
        "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1),
        "ate_mm": errors.ate, "rotation_deg": float(errors.rotation_deg.mean()),
        "psnr_sfm_db": psnr(field, scene, views, own), "psnr_fitted_db": psnr(field, scene, views, fitted(views)),
        "psnr_half_sfm_db": psnr(field, scene, views, own, 0.5),
        "psnr_half_db": psnr(field, scene, views, halves, 0.5),
    }  # fmt: skip


def table(rows: list[dict], about: dict) -> str:
    """Markdown, a line a row."""
    lines = [
        f"mipgrid on the demo's pictures; {about['machine']}, {about['threads']} threads. Pose errors of the training "
        "views against the truth; PSNR of the held-out views from their own poses, from poses fitted to them, and of "
        "their right halves from either (fitted to the left halves).",
        "",
        "| poses | refined | steps | seconds (CPU) | ATE mm | rotation deg | PSNR own dB | fitted dB | "
        "right half own dB | right half fitted dB |",
        "|" + "---|" * 10,
    ]
    for r in rows:
        lines.append(
            f"| {r['case']} | {'yes' if r['refined'] else 'no'} | {r['steps']} | "
            f"{r['seconds']:.0f} ({r['cpu_seconds']:.0f}) | "
            f"{r['ate_mm']:.3f} | {r['rotation_deg']:.3f} | {r['psnr_sfm_db']:.2f} | {r['psnr_fitted_db']:.2f} | "
            f"{r['psnr_half_sfm_db']:.2f} | {r['psnr_half_db']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Trains and measures what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--refined", nargs="+", choices=("no", "yes"), default=["no", "yes"])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run, about = RunFolder(options.run), {"schema": 1, **scenes.machine()}
    file = options.out / "pose_refinement.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    for case in options.cases:
        for refine in (name == "yes" for name in options.refined):
            key = (case, refine, options.steps, options.seed)
            if any((r["case"], r["refined"], r["steps"], r["seed"]) == key for r in rows):
                continue
            rows.append(measure(run, *key, options.out / "work"))
            file.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
            (options.out / "pose_refinement.md").write_text(table(rows, about))
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows, about))
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The trainer: one plain loop for every renderer."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch

from medrecon.errors import InputError, StageError
from medrecon.progress import Progress, Quiet
from medrecon.radiance import checkpoint
from medrecon.radiance.field_files import save_field
from medrecon.radiance.glance import Glance, psnr_db_of, step_seed
from medrecon.radiance.interrupt import DeferredInterrupt
from medrecon.radiance.pictures import PixelPool
from medrecon.radiance.pose_refinement import PoseRefinement
from medrecon.radiance.renderer import Renderer
from medrecon.radiance.scene import Scene
from medrecon.radiance.schedule import Schedule
from medrecon.radiance.settings import TrainingConfig
from medrecon.radiance.sparse_depth import PER_RAY, SparseDepth
from medrecon.radiance.team import Buffers, Team
from medrecon.radiance.view_pool import ViewPool
from medrecon.types import FrameSet, SparseModel
from medrecon.types.storage import write_json

__all__ = ["TrainingConfig", "train"]

POSE_SEEDS = 2**32  # from here on, beyond all steps


def train(
    frames: FrameSet,
    sparse: SparseModel,
    renderer: Renderer,
    training: TrainingConfig,
    out_dir: Path,
    seed: int,
    device: str,
    progress: Progress,
    team: Team | None = None,
) -> None:
    """Trains a renderer on the registered frames.

    Writes scene.json, field.safetensors, field.json, history.json and, where poses are refined, poses.json. What a
    killed run with the same settings left in ``out_dir`` is taken up again; the result is then bit for bit that of an
    undisturbed run, unless the clock ends it (``training.minutes``).

    Args:
        team: processes that all call this, in the block of their team, with the same arguments. Each draws rays of its
            own; the gradients are averaged, so that a step sees ``team.size`` times as many rays. The fields of all
            processes are bitwise the same at any time.

    Raises:
        StageError: nothing to train on, or the training diverged.
        TeamError: another process failed.
        KeyboardInterrupt: after a checkpoint was saved.
    """
    team = team or Team()
    progress = progress if team.leads else Quiet()
    started = time.monotonic()
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    scene = Scene.from_sparse(frames, sparse, training)
    if scene.unbounded and not renderer.sees_far:
        raise StageError(
            f"{renderer.name} renders what lies in a box, and training.unbounded asks for all of space",
            "leave training.unbounded at false, or take the renderer mipgrid",
        )
    if team.leads:
        scene.save(out_dir / "scene.json")
    progress.say(_describe(scene))

    renderer.setup(scene, scene.train_ids, seed)
    renderer.start(
        torch.from_numpy(scene.field_from_sfm.apply(sparse.points)).float().view(-1, 3),
        torch.from_numpy(sparse.colors).float().view(-1, 3) / 255,
    )
    renderer.to(device).train()
    kind = ViewPool if renderer.whole_views else PixelPool
    pools = [p.to(device) for p in _pyramid(scene, frames, training, kind)]
    told = training.depth_weight > 0 and renderer.meets_surfaces
    points = SparseDepth(scene, sparse, device) if told else None
    poses = PoseRefinement.of(scene, frames, sparse, pools, training, renderer, progress)
    looks = scene.heldout_ids and training.evaluate_every
    glance = Glance(scene, frames, seed, device, team, renderer.whole_views) if looks else None
    optimiser = renderer.optimiser(training.learning_rate)
    trace = _resume(out_dir, renderer, optimiser, seed, progress, team)
    if poses:
        poses.begin(trace)
    buffers = Buffers(renderer)

    schedule = Schedule.of(training, renderer.iterations)
    progress.begin(schedule.steps or round(60 * training.minutes), "steps" if schedule.steps else "s")
    progress.advance(trace.step if schedule.steps else int(trace.seconds))
    before = trace.seconds
    checkpoints = checkpoint.Checkpoints(out_dir, renderer, optimiser, seed, training.checkpoint_seconds)
    with DeferredInterrupt(team) as interrupt, checkpoints:
        try:
            while not schedule.over(trace):
                if poses:  # all of a team do the same: their fields and seeds are
                    poses.round_if_due(renderer, schedule, trace, step_seed(seed, POSE_SEEDS + trace.step))
                _step(renderer, optimiser, scene, pools, points, schedule, trace, seed, device, team, buffers)
                second = int(trace.seconds)
                (trace.seconds,) = team.of_leader(before + time.monotonic() - started)
                _record(renderer, schedule, trace, glance, progress)
                progress.advance(1 if schedule.steps else int(trace.seconds) - second, **_figures(trace))
                interrupt.check()
                if team.leads:
                    checkpoints.save_if_due(trace)
        except KeyboardInterrupt:
            if team.leads:
                checkpoints.save(trace)
                checkpoints.wait()
            progress.say(f"stopped after step {trace.step}; the same command goes on from there")
            raise
    if team.leads:
        write_json(out_dir / "history.json", trace.history)
        if poses:
            scene = poses.finish(renderer, trace, out_dir, sparse, progress)
        save_field(out_dir, renderer, scene, trace.step, seed)
        checkpoint.remove(out_dir)


def _step(renderer, optimiser, scene, pools, points, schedule, trace, seed, device, team, buffers) -> None:
    training = schedule.training
    generator = torch.Generator(device).manual_seed(step_seed(seed, trace.step, team.rank))
    pool = pools[schedule.pyramid_level(trace)]
    share = training.background_share if scene.background == "black" else 0.0
    rays, rgb = pool.batch(renderer.batch_size(training.rays_per_batch), share, generator, scene)
    for group in optimiser.param_groups:
        group["lr"] = schedule.learning_rate(trace) * group.get("rate", 1.0)
    loss, figures = renderer.loss(rays, rgb, torch.ones(len(rays), device=rgb.device), trace.step, generator)
    if points:
        loss = loss + training.depth_weight * points.loss(renderer, max(1, len(rays) // PER_RAY), generator)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    value = float(loss.detach())
    mse = 10 ** (-figures["psnr_db"] / 10) if math.isfinite(figures.get("psnr_db", math.nan)) else value
    value, mse = (x / team.size for x in team.sum(value, mse))
    if not math.isfinite(value):
        raise StageError(
            f"the loss became {value} at step {trace.step}: the training diverged",
            "lower training.learning_rate (try a third of it), and look at the funnel: wrong poses do this too",
        )
    team.average([p for group in optimiser.param_groups for p in group["params"]])
    team.follow(buffers)
    optimiser.step()
    trace.window = [trace.window[0] + value, trace.window[1] + mse, trace.window[2] + 1]
    trace.step += 1


def _pyramid(scene: Scene, frames: FrameSet, training: TrainingConfig, pool: type) -> list[PixelPool | ViewPool]:
    """Pools from the smallest pictures to the full ones; the last is that of ``training.scales``."""
    n = len(training.pyramid)
    sizes = [(0.5 ** (n - i),) for i in range(n)] + [training.scales]
    return [pool.build(scene, frames, scene.train_ids, factors) for factors in sizes]


def _record(
    renderer: Renderer, schedule: Schedule, trace: checkpoint.Trace, glance: Glance | None, progress: Progress
) -> None:
    """Adds an entry to the history when it is time for one."""
    look = glance is not None and (schedule.over(trace) or trace.step % schedule.training.evaluate_every == 0)
    if not (look or schedule.remembers(trace)):
        return
    loss, mse, n = trace.window
    entry = {"step": trace.step, "loss": loss / n, "psnr_db": psnr_db_of(mse / n), "seconds": round(trace.seconds, 3)}
    if look:
        entry["heldout_psnr_db"] = glance.psnr_db(renderer)
    trace.history.append(entry)
    if look and not schedule.over(trace) and schedule.is_flat(trace):
        entry["flat"] = True
        progress.say(f"step {trace.step}: the held-out pictures gain no more; the learning rate falls, then it ends")
    trace.window = [0.0, 0.0, 0.0]


def _figures(trace: checkpoint.Trace) -> dict[str, float]:
    if not trace.history:
        return {}
    figures = {"psnr_db": trace.history[-1]["psnr_db"]}
    held = [h["heldout_psnr_db"] for h in trace.history[-20:] if "heldout_psnr_db" in h]
    return {**figures, "heldout_psnr_db": held[-1]} if held else figures


def _resume(out_dir, renderer, optimiser, seed, progress, team) -> checkpoint.Trace:
    """The leader looks first: what it cannot use is gone before the others look."""
    trace = _take_up(out_dir, renderer, optimiser, seed, progress) if team.leads else None
    (step,) = team.of_leader(trace.step if team.leads else 0)
    trace = trace or _take_up(out_dir, renderer, optimiser, seed, progress)
    if trace.step != step:
        raise StageError(
            f"it finds the training at step {trace.step} in {out_dir}, process 0 at step {step:.0f}",
            "start all processes where they see the same folder",
        )
    team.sum()  # before a new checkpoint takes the place of the old one
    return trace


def _take_up(out_dir, renderer, optimiser, seed, progress) -> checkpoint.Trace:
    try:
        trace = checkpoint.load(out_dir, renderer, optimiser, seed)
    except InputError as e:
        progress.say(f"training starts anew: {e.cause}")
        checkpoint.remove(out_dir)
        trace = None
    if trace is None:
        return checkpoint.Trace()
    progress.say(f"going on from the checkpoint at step {trace.step}")
    return trace


def _describe(scene: Scene) -> str:
    counts = f"{len(scene.train_ids)} pictures to train on, {len(scene.heldout_ids)} held out"
    text = f"{counts}, background: {scene.background}"
    if scene.unbounded:
        text += "; unbounded"
    if scene.occupied is not None:
        text += f"; {100 * (1 - scene.occupied.mean()):.0f} % of the box is known to be empty"
    return text

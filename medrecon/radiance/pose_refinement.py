# SPDX-License-Identifier: Apache-2.0
"""Poses that are refined while a field is trained on their pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medrecon.errors import ConfigError, InputError
from medrecon.metrics.poses import rotation_angle_deg
from medrecon.progress import Progress
from medrecon.radiance.checkpoint import Trace
from medrecon.radiance.direct_alignment import Picture, align, look, pictures
from medrecon.radiance.pictures import PixelPool
from medrecon.radiance.renderer import Renderer
from medrecon.radiance.scene import Scene
from medrecon.radiance.schedule import Schedule
from medrecon.radiance.settings import TrainingConfig
from medrecon.sfm.alignment import align_trajectories
from medrecon.types import FrameSet, Rigid3, Scale, SparseModel
from medrecon.types.storage import write_json

ROUNDS = 20
FIRST, LAST = 0.15, 0.9  # of the training: when the first and the last round are; a field begins as fog
PIXELS = 1024  # of each view in a round
HELDOUT_ROUNDS, HELDOUT_PIXELS = 6, 4096
HELDOUT = "fitted to the views' own pictures with the field held still"


class PoseRefinement:
    """The poses of the training pictures while the field learns.

    In rounds between the steps of the field each picture is aligned with what the field shows from its pose
    (`direct_alignment`), in the size that the field is trained on at that time. What all poses do in common is taken
    out of every round: place, turn and size of the scene are nothing that pictures know. Held-out pictures take no
    part; at the end their poses are fitted in the same way to the finished field (as in BARF, Lin et al. 2021, section
    4.1): their own poses belong to the unrefined ones, and would measure those.

    Args:
        scene: with the poses to begin with.
        frames: the pictures.
        pools: whose poses follow.
        training: its options.
    """

    def __init__(self, scene: Scene, frames: FrameSet, pools: list[PixelPool], training: TrainingConfig):
        self._scene, self._frames, self._pools = scene, frames, pools
        self._levels = len(training.pyramid)
        self._pictures: tuple[int, list[Picture]] = (-1, [])

    @staticmethod
    def of(
        scene: Scene, frames: FrameSet, sparse: SparseModel, pools: list[PixelPool], training: TrainingConfig,
        renderer: Renderer, progress: Progress,
    ) -> "PoseRefinement | None":  # fmt: skip
        """None where the options do not want it.

        Raises ConfigError: the renderer does not show surfaces along single rays.
        """
        if training.pose_refinement == "none":
            return None
        if training.pose_refinement == "recovered" and _were_given(frames, sparse):
            progress.say("the poses were given: they are not refined")
            return None
        if renderer.translucent or renderer.whole_views:
            why = (
                "it draws whole views alone"
                if renderer.whole_views
                else "rays pass through matter, nothing tells depth"
            )
            raise ConfigError(f"poses cannot be refined on {renderer.name}: {why}", "training.pose_refinement=none")
        return PoseRefinement(scene, frames, pools, training)

    def begin(self, trace: Trace) -> None:
        """With the poses of the trace, or those of the scene where it has none yet."""
        first = {i: self._scene.cam_from_field(self._scene.cam_from_sfm[i]) for i in self._scene.train_ids}
        self._place(trace, {i: trace.poses.get(i, first[i]) for i in first})

    def round_if_due(self, renderer: Renderer, schedule: Schedule, trace: Trace, seed: int) -> None:
        """Before a step of the field; ``seed`` decides which pixels are looked at."""
        done = trace.pose_rounds
        if done >= ROUNDS or schedule.share(trace) < FIRST + (LAST - FIRST) * done / (ROUNDS - 1):
            return
        level = schedule.pyramid_level(trace)
        if self._pictures[0] != level:
            factor = 0.5 ** (self._levels - level)
            self._pictures = level, pictures(self._scene, self._frames, self._scene.train_ids, factor)
        generator = torch.Generator().manual_seed(seed)
        renderer.eval()
        moved = realigned(renderer, self._scene, self._pictures[1], trace.poses, PIXELS, generator)
        renderer.train()
        self._place(trace, without_drift(moved, trace.poses))
        trace.pose_rounds += 1

    def _place(self, trace: Trace, poses: dict[int, Rigid3]) -> None:
        trace.poses = poses
        for pool in self._pools:
            ids = pool.frame_ids.tolist()
            pool.rotations.copy_(torch.from_numpy(np.array([poses[i].rotation.T for i in ids])))
            pool.centres.copy_(torch.from_numpy(np.array([poses[i].center for i in ids])))

    def finish(self, renderer: Renderer, trace: Trace, out_dir: Path, sparse: SparseModel, progress: Progress) -> Scene:
        """The scene with all poses as they are now, those of held-out views fitted. Writes scene.json anew, and
        poses.json: how far from those of structure from motion they are, and what held-out pictures look like from
        either.
        """
        scene, sfm_from_field = self._scene, self._scene.field_from_sfm.inverse()
        heldout = pictures(scene, self._frames, scene.heldout_ids)
        before = {i: scene.cam_from_field(scene.cam_from_sfm[i]) for i in scene.heldout_ids}
        poses, generator = dict(before), torch.Generator().manual_seed(0)
        renderer.eval()
        for _ in range(HELDOUT_ROUNDS if heldout else 0):
            poses = realigned(renderer, scene, heldout, poses, HELDOUT_PIXELS, generator, "mean")
        psnr = [_psnr(renderer, scene, heldout, p) if heldout else None for p in (before, poses)]
        renderer.train()
        found = {i: sfm_from_field.transform_pose(p) for i, p in {**trace.poses, **poses}.items()}
        facts = {
            "schema": 1, "rounds": trace.pose_rounds,
            **corrections({i: scene.cam_from_sfm[i] for i in scene.train_ids}, found),
            "heldout": HELDOUT, "heldout_psnr_db": psnr[1], "heldout_psnr_from_sfm_poses_db": psnr[0],
        }  # fmt: skip
        write_json(out_dir / "poses.json", facts)
        progress.say(describe(facts, sparse.scale))
        refined = replace(scene, cam_from_sfm={**scene.cam_from_sfm, **found})
        refined.save(out_dir / "scene.json")
        return refined


def _were_given(frames: FrameSet, sparse: SparseModel) -> bool:
    """Whether every registered frame stands where it said it does (the mapper known-poses)."""
    by_id = frames.by_id()
    given = {i: by_id[i].cam_from_world_mm for i in sparse.cam_from_world if i in by_id}
    same = lambda a, b: b is not None and np.allclose(a.matrix(), b.matrix(), rtol=1e-9, atol=1e-9)  # noqa: E731
    return all(same(sparse.cam_from_world[i], pose) for i, pose in given.items())


def realigned(
    renderer: Renderer, scene: Scene, views: list[Picture], poses: dict[int, Rigid3], pixels: int,
    generator: torch.Generator, appearance: str | None = None,
) -> dict[int, Rigid3]:  # fmt: skip
    """The poses (camera from field) after one alignment of every view with what the field shows of it."""
    out = dict(poses)
    for view, shown in zip(views, look(renderer, scene, views, poses, pixels, generator, appearance)):
        moved_from_cam = align(view, shown)
        if moved_from_cam is not None:
            out[view.frame_id] = moved_from_cam @ poses[view.frame_id]
    return out


def without_drift(poses: dict[int, Rigid3], earlier: dict[int, Rigid3]) -> dict[int, Rigid3]:
    """The poses, moved by the similarity that brings them nearest to the earlier ones."""
    try:
        earlier_from_new = align_trajectories(poses, earlier)
    except InputError:  # the cameras stand in one place: their turns are all there is
        return poses
    return {i: earlier_from_new.transform_pose(p) for i, p in poses.items()}


def corrections(before: Mapping[int, Rigid3], after: Mapping[int, Rigid3]) -> dict[str, float]:
    """Median and largest turn in degrees, and shift of the centre in the poses' unit, over the views of ``before``."""
    turns = [rotation_angle_deg(after[i].rotation @ p.rotation.T) for i, p in before.items()]
    shifts = [float(np.linalg.norm(after[i].center - p.center)) for i, p in before.items()]
    return {
        "turn_median_deg": float(np.median(turns)), "turn_largest_deg": max(turns),
        "shift_median_sfm": float(np.median(shifts)), "shift_largest_sfm": max(shifts),
    }  # fmt: skip


def describe(facts: Mapping, scale: Scale) -> str:
    """What poses.json says, in words."""
    factor, unit = (scale.metric_from_sfm.scale, "mm") if scale.is_metric else (1.0, "units")
    text = (
        f"Poses refined: turned by {facts['turn_median_deg']:.2f} deg and moved by "
        f"{factor * facts['shift_median_sfm']:.3g} {unit} in the median, at most "
        f"{facts['turn_largest_deg']:.2f} deg and {factor * facts['shift_largest_sfm']:.3g} {unit}"
    )
    if facts["heldout_psnr_db"] is not None:
        text += (
            f"; held-out pictures {facts['heldout_psnr_db']:.2f} dB, from the poses of structure from motion "
            f"{facts['heldout_psnr_from_sfm_poses_db']:.2f} dB"
        )
    return text


@torch.no_grad()
def _psnr(renderer: Renderer, scene: Scene, views: list[Picture], poses: dict[int, Rigid3]) -> float:
    """Over all usable pixels of the views together, with the mean appearance code."""
    device, errors = next(renderer.parameters()).device, []
    for view in views:
        pose = scene.field_from_sfm.inverse().transform_pose(poses[view.frame_id])
        rays = scene.camera_rays(scene.cameras[view.frame_id], pose, scene.near_far[view.frame_id], view.frame_id)
        parts = [renderer.render_basic(rays[k : k + 8192].to(device), "mean").rgb for k in range(0, len(rays), 8192)]
        error = (torch.cat(parts).cpu() - view.image.flatten(0, 1).float() / 255) ** 2
        errors.append(error[view.usable.flatten()])
    return -10 * math.log10(max(float(torch.cat(errors).mean()), 1e-10))

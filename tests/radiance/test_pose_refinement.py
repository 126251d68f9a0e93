# SPDX-License-Identifier: Apache-2.0
"""Poses refined beside a field: derivatives, a ball in closed form, a training with wrong poses, and who may see what."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import medrecon
from medrecon.errors import ConfigError
from medrecon.images import write_png
from medrecon.metrics.poses import pose_errors, rotation_angle_deg
from medrecon.pipeline.result import summarise
from medrecon.progress import Quiet
from medrecon.radiance import Renderer, Scene, TrainingConfig
from medrecon.radiance.checkpoint import NAME
from medrecon.radiance.direct_alignment import direction_jacobian, pictures, rigid_motion
from medrecon.radiance.pose_refinement import PoseRefinement, realigned, without_drift
from medrecon.radiance.train import train
from medrecon.report.parts import gather
from medrecon.runfolder import RunFolder
from medrecon.types import RenderOut, Rigid3, Sim3

sys.path.insert(0, str(Path(__file__).parent))
from radiance_ball import CENTRE, RADIUS, ball  # noqa: E402
from radiance_cluster import cluster  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    torch.set_num_threads(1)
    return ball(tmp_path_factory.mktemp("ball"), n=8, size=48, colour=patterned)


def patterned(normal):
    """What tells poses: on a ball that is all but plain, a turn looks like a shift."""
    return 0.5 + 0.35 * np.sin(6 * normal + 2 * normal[..., [1, 2, 0]])


class Ball(Renderer):
    """The ball itself, in closed form; its rim covers a part of a pixel."""

    name = "ball"

    def __init__(self, scene: Scene):
        super().__init__(None)
        self.scene, self.here = scene, torch.nn.Parameter(torch.zeros(()))

    def render_basic(self, rays, appearance=None):
        sfm_from_field = self.scene.field_from_sfm.inverse()
        o = torch.from_numpy(sfm_from_field.apply(rays.origins.numpy()) - CENTRE)
        d = rays.directions.double() * sfm_from_field.scale
        a, b = (d * d).sum(-1), (d * o).sum(-1)
        beside = ((o * o).sum(-1) - b * b / a).clamp_min(0).sqrt()
        pixel = rays.radii.squeeze(-1).double() * np.sqrt(12) / 2 * sfm_from_field.scale * (-b / a)
        covered = ((RADIUS - beside) / pixel + 0.5).clamp(0, 1)
        t = (-b - ((RADIUS**2 - beside**2).clamp_min(0) * a).sqrt()) / a
        normal = (o + t[:, None] * d) / RADIUS
        rgb = torch.from_numpy(patterned(normal.numpy())) * covered[:, None]
        return RenderOut(rgb.float(), t.float(), covered.float())


def shaken(poses, seed: int, deg: float = 0.5, share: float = 0.01, middle=CENTRE) -> dict[int, Rigid3]:
    """Each turned by ``deg`` about a random axis, and shifted by ``share`` of its distance in a random direction."""
    draw, out = np.random.default_rng(seed), {}
    for i, pose in poses.items():
        axis, way = draw.normal(size=(2, 3))
        turn = rigid_motion(torch.tensor([*(axis / np.linalg.norm(axis) * np.radians(deg)), 0, 0, 0]).double()).numpy()
        rotation = turn[:3, :3] @ pose.rotation
        centre = pose.center + way / np.linalg.norm(way) * share * np.linalg.norm(pose.center - middle)
        out[i] = Rigid3(rotation, -rotation @ centre)
    return out


def off(found: dict[int, Rigid3], true: dict[int, Rigid3]) -> tuple[float, float]:
    """Mean angle in degrees and mean distance of the centres."""
    return (
        float(np.mean([rotation_angle_deg(found[i].rotation @ true[i].rotation.T) for i in true])),
        float(np.mean([np.linalg.norm(found[i].center - true[i].center) for i in true])),
    )


def test_derivatives_are_those_of_the_projection():
    draw = torch.Generator().manual_seed(0)
    points = torch.randn(5, 3, generator=draw, dtype=torch.float64) + torch.tensor([0.0, 0.0, 4.0])

    def project(step):
        x, y, z = step[:3]
        zero = torch.zeros((), dtype=torch.float64)
        cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
        moved = points @ torch.linalg.matrix_exp(cross).T + step[3:]
        return moved[:, :2] / moved[:, 2:]

    expected = torch.autograd.functional.jacobian(project, torch.zeros(6, dtype=torch.float64))
    x, y, z = points.unbind(-1)
    torch.testing.assert_close(direction_jacobian(x / z, y / z, 1 / z), expected)
    step = torch.tensor([0.1, -0.2, 0.3, 1.0, 2.0, 3.0], dtype=torch.float64)
    m = rigid_motion(step)
    torch.testing.assert_close(
        project(step), (points @ m[:3, :3].T + m[:3, 3])[:, :2] / (points @ m.T[:3, 2:3] + m[2, 3])
    )


def aligned(renderer, scene, frames, poses, rounds=20):
    views, generator = pictures(scene, frames, poses), torch.Generator().manual_seed(0)
    for _ in range(rounds):
        poses = realigned(renderer, scene, views, poses, 2000, generator)
    return poses


def test_shaken_poses_come_back_to_a_ball_in_closed_form(data):
    frames, sparse = data
    scene = Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=48))
    true = {i: scene.cam_from_field(scene.cam_from_sfm[i]) for i in scene.frame_ids}
    moved = {i: scene.field_from_sfm.transform_pose(p) for i, p in shaken(scene.cam_from_sfm, 1).items()}
    before, after = off(moved, true), off(aligned(Ball(scene), scene, frames, moved), true)
    assert before[0] == pytest.approx(0.5, rel=1e-6)
    assert after[0] < before[0] / 6 and after[1] < before[1] / 6


def test_brightness_and_contrast_move_no_pose(data, tmp_path):
    frames, sparse = data
    scene = Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=48))
    changed = []
    for f in frames.frames:
        path = tmp_path / f.image_path.name
        write_png(path, (0.7 * f.load_image() + 20).round().astype(np.uint8))
        changed.append(replace(f, image_path=path))
    true = {i: scene.cam_from_field(scene.cam_from_sfm[i]) for i in scene.frame_ids}
    same = off(aligned(Ball(scene), scene, frames, true, 6), true)
    other = off(aligned(Ball(scene), scene, replace(frames, frames=tuple(changed)), true, 6), true)
    assert same[0] < 0.06 and other[0] < 0.06


def test_what_lies_under_a_mask_moves_no_pose(data, tmp_path):
    frames, sparse = data
    mask = np.ones((48, 48), bool)
    mask[10:24, 8:40] = False
    write_png(tmp_path / "mask.png", mask)
    found = []
    scene = Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=48))
    for k, colour in enumerate([(255, 0, 255), (1, 2, 3)]):
        changed = []
        for f in frames.frames:
            image = f.load_image().copy()
            image[~mask] = colour
            path = tmp_path / f"{k}-{f.image_path.name}"
            write_png(path, image)
            changed.append(replace(f, image_path=path, mask_path=tmp_path / "mask.png"))
        poses = {i: scene.cam_from_field(scene.cam_from_sfm[i]) for i in scene.frame_ids}
        found.append(aligned(Ball(scene), scene, replace(frames, frames=tuple(changed)), poses, 2))
    assert all(np.array_equal(found[0][i].matrix(), found[1][i].matrix()) for i in found[0])


def test_what_all_poses_do_in_common_is_taken_out(data):
    poses = data[1].cam_from_world
    turn = rigid_motion(torch.tensor([0.1, -0.2, 0.3, 0, 0, 0]).double()).numpy()[:3, :3]
    moved = {i: Sim3(1.1, turn, np.array([1.0, 2.0, 3.0])).transform_pose(p) for i, p in poses.items()}
    back = without_drift(moved, poses)
    assert all(np.allclose(back[i].matrix(), p.matrix(), atol=1e-9) for i, p in poses.items())


GRID = {"width": 16, "levels": 4, "log2_size": 13, "coarsest": 8, "finest": 32, "samples": 96, "occupancy_cells": 32,
        "samples_per_batch": 16384, "direction_degree": 0, "appearance_size": 0}  # fmt: skip


def training(**more) -> TrainingConfig:
    usual = {"iterations": 200, "max_size_px": 48, "evaluate_every": 0, "pyramid": (0.2,), "depth_weight": 0.0}
    return TrainingConfig(**{**usual, "pose_refinement": "recovered", **more})


def wrong(sparse):
    return replace(sparse, cam_from_world=shaken(sparse.cam_from_world, 2))


def learn(frames, sparse, options, out, progress=None, name="mipgrid", more=GRID):
    renderer = medrecon.create("renderer", name, **more)
    train(frames, sparse, renderer, options, out, 0, "cpu", progress or Quiet())


def test_a_training_on_wrong_poses_puts_them_right(tmp_path):
    frames, sparse = cluster(tmp_path, n=16, size=48)
    bad = replace(sparse, cam_from_world=shaken(sparse.cam_from_world, 2, 1.0, 0.02, np.zeros(3)))
    said = Quiet()
    learn(frames, bad, training(iterations=300), tmp_path, said)
    scene = Scene.load(tmp_path / "scene.json")
    for ids in (scene.train_ids, scene.frame_ids):  # without and with those held out
        before, after = (
            pose_errors({i: poses[i] for i in ids}, sparse.cam_from_world)
            for poses in (bad.cam_from_world, scene.cam_from_sfm)
        )
        assert after.ate < before.ate / 2 and after.rotation_deg.mean() < before.rotation_deg.mean() / 2
    facts = json.loads((tmp_path / "poses.json").read_text())
    assert facts["heldout_psnr_db"] > facts["heldout_psnr_from_sfm_poses_db"]
    assert 0.5 < facts["turn_median_deg"] < 2 and facts["turn_median_deg"] <= facts["turn_largest_deg"]
    assert any(s.startswith("Poses refined") for s in said.said)


def test_held_out_pictures_take_no_part(data, tmp_path):
    frames, sparse = data
    scene = Scene.from_sparse(frames, sparse, training())
    changed = []
    for f in frames.frames:
        if f.frame_id in scene.heldout_ids:
            path = tmp_path / f.image_path.name
            write_png(path, 255 - f.load_image())
            f = replace(f, image_path=path)
        changed.append(f)
    assert scene.heldout_ids
    short = training(iterations=24)
    learn(frames, wrong(sparse), short, tmp_path / "a")
    learn(replace(frames, frames=tuple(changed)), wrong(sparse), short, tmp_path / "b")
    a, b = (load_file(tmp_path / d / "field.safetensors") for d in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)
    a, b = (Scene.load(tmp_path / d / "scene.json").cam_from_sfm for d in "ab")
    assert all(np.array_equal(a[i].matrix(), b[i].matrix()) for i in scene.train_ids)


class Stop(Quiet):
    def __init__(self, steps: int):
        super().__init__()
        self.left = steps

    def advance(self, n: int = 1, **figures) -> None:
        self.left -= n
        if self.left == 0:
            raise SystemExit("killed")


def test_a_killed_training_goes_on_bit_for_bit(data, tmp_path):
    frames, sparse = data
    options = training(iterations=24, checkpoint_seconds=1e-6)
    learn(frames, wrong(sparse), options, tmp_path / "whole")
    with pytest.raises(SystemExit):
        learn(frames, wrong(sparse), options, tmp_path / "part", Stop(15))
    assert json.loads((tmp_path / "part" / NAME).read_text())["pose_rounds"] > 3
    said = Quiet()
    learn(frames, wrong(sparse), options, tmp_path / "part", said)
    assert any("going on" in s for s in said.said)
    a, b = (load_file(tmp_path / d / "field.safetensors") for d in ("whole", "part"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert (tmp_path / "whole" / "scene.json").read_bytes() == (tmp_path / "part" / "scene.json").read_bytes()


def test_poses_that_were_given_stay(data):
    frames, sparse = data
    given = replace(
        frames, frames=tuple(replace(f, cam_from_world_mm=sparse.cam_from_world[f.frame_id]) for f in frames.frames)
    )
    scene, said = Scene.from_sparse(frames, sparse, training()), Quiet()
    renderer = medrecon.create("renderer", "mipgrid", **GRID)
    of = lambda f, s, wanted: PoseRefinement.of(  # noqa: E731
        scene, f, s, [], training(pose_refinement=wanted), renderer, said
    )
    assert of(given, sparse, "recovered") is None and "given" in said.said[-1]
    assert of(given, sparse, "all") is not None
    assert of(given, wrong(sparse), "recovered") is not None  # found by structure from motion after all
    assert of(frames, sparse, "recovered") is not None and of(frames, sparse, "none") is None


def test_radiographs_are_refused(data):
    frames, sparse = data
    scene = Scene.from_sparse(frames, sparse, training())
    with pytest.raises(ConfigError, match="xray"):
        PoseRefinement.of(scene, frames, sparse, [], training(), medrecon.create("renderer", "xray"), Quiet())


def test_a_run_folder_knows_both_kinds_of_poses(data, tmp_path):
    frames, sparse = data
    out = tmp_path / "stages" / "radiance"
    (tmp_path / "stages" / "sfm").mkdir(parents=True)
    sparse.save(tmp_path / "stages" / "sfm")
    learn(frames, sparse, training(iterations=2, pose_refinement="none"), out)
    run = RunFolder(tmp_path)
    assert run.pose_refinement is None
    assert all(
        np.array_equal(run.posed.cam_from_world[i].matrix(), p.matrix()) for i, p in sparse.cam_from_world.items()
    )
    learn(frames, sparse, training(iterations=24), out)
    refined = Scene.load(out / "scene.json").cam_from_sfm
    assert run.pose_refinement["rounds"] > 10
    assert any(not np.array_equal(refined[i].matrix(), p.matrix()) for i, p in run.sparse.cam_from_world.items())
    assert all(np.array_equal(refined[i].matrix(), p.matrix()) for i, p in run.posed.cam_from_world.items())
    assert np.array_equal(run.posed.points, sparse.points)
    # Figures and words are of the same corrections, whatever the unit.
    turns = [rotation_angle_deg(refined[i].rotation @ p.rotation.T) for i, p in sparse.cam_from_world.items()
             if i in Scene.load(out / "scene.json").train_ids]  # fmt: skip
    manifest = {"stages": [{"name": n, "seconds": 1.0} for n in ("sfm", "radiance")], "ops_backend": {"name": "x"},
                "device": "cpu", "seed": 0, "weights": []}  # fmt: skip
    figures = summarise(run, manifest)[0]
    assert figures["pose_turn_largest_deg"] == pytest.approx(max(turns)) and figures["pose_shift_median_units"] > 0
    assert gather(run).refinement.value.startswith(f"Poses refined: turned by {np.median(turns):.2f} deg")

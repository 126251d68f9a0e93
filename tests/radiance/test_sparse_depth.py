# SPDX-License-Identifier: Apache-2.0
"""Sparse points as teachers of depth, against a ball whose surface is known."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import medrecon
from medrecon.progress import Quiet
from medrecon.radiance import Scene, TrainingConfig
from medrecon.radiance.renderer import Renderer
from medrecon.radiance.sparse_depth import SparseDepth
from medrecon.radiance.train import train
from medrecon.types import RenderOut

sys.path.insert(0, str(Path(__file__).parent))
from radiance_ball import CENTRE, RADIUS, ball  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    torch.set_num_threads(1)
    frames, sparse = ball(tmp_path_factory.mktemp("ball"), n=8, size=24)
    return frames, sparse, Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=24))


class Ball(Renderer):
    """Opaque between the ends of a ray that meet the ball; its radius is the only parameter."""

    meets_surfaces = True

    def __init__(self, scene: Scene, radius: float):
        super().__init__(None)
        self.centre = torch.from_numpy(scene.field_from_sfm.apply(CENTRE)).float()
        self.radius = radius * scene.field_from_sfm.scale

    def render_basic(self, rays, appearance=None):
        o = rays.origins - self.centre
        a, b = (rays.directions**2).sum(-1), (rays.directions * o).sum(-1)
        under = b**2 - a * ((o**2).sum(-1) - self.radius**2)
        root = under.clamp(min=0).sqrt()
        enters, leaves = (-b - root) / a, (-b + root) / a
        opaque = (under > 0) & (enters < rays.far[:, 0]) & (leaves > rays.near[:, 0])
        return RenderOut(torch.zeros(len(rays), 3), enters, opaque.float())


def test_lines_of_sight_end_at_the_points(data):
    _, sparse, scene = data
    told = SparseDepth(scene, sparse)
    ends = told.origins[told.frame] + told.depth[:, None] * told.directions
    points = scene.field_from_sfm.apply(sparse.points)
    lengths = np.diff(sparse.track_offsets)
    owner = np.repeat(np.arange(len(points)), lengths)
    use = np.isin(sparse.track_frame_ids, scene.train_ids) & (lengths[owner] >= 3)
    assert len(told) == use.sum() > 100 and np.allclose(ends.numpy(), points[owner[use]], atol=1e-5)
    for frame_id, end, depth in zip(told.frame_ids[told.frame].tolist(), ends.double().numpy(), told.depth.tolist()):
        pose = scene.cam_from_field(scene.cam_from_sfm[frame_id])
        assert pose.apply(end[None])[0, 2] == pytest.approx(depth, rel=1e-5)
    assert not set(told.frame_ids.tolist()) & set(scene.heldout_ids)


@pytest.mark.parametrize(("radius", "expected"), [(1.0, 0.0), (1.15, 1.0), (0.8, 1.0)])
def test_the_loss_of_a_ball_of_right_and_wrong_size(data, radius, expected):
    """Right: nothing before, matter at the point. Too large: matter before it (and there). Too small: nothing there."""
    _, sparse, scene = data
    told = SparseDepth(scene, sparse)
    loss = told.loss(Ball(scene, radius * RADIUS), 500, torch.Generator().manual_seed(0))
    # Lines of sight that graze the ball leave it again within the margin, or miss the smaller one.
    assert float(loss) == pytest.approx(expected, abs=0.1)


def test_points_of_large_error_count_little(data):
    _, sparse, scene = data
    errors = np.where(np.arange(len(sparse.points)) % 2, 0.1, 5.0)
    told = SparseDepth(scene, replace(sparse, errors_px=errors))
    low, high = told.weight.min(), told.weight.max()
    assert low < 0.1 * high and float(told.weight.mean()) == pytest.approx(1, abs=1e-4)


GRID = {"width": 16, "levels": 4, "log2_size": 12, "finest": 64, "samples": 64, "occupancy_cells": 32,
        "samples_per_batch": 4096, "occupancy_every": 4}  # fmt: skip
LOOKS = {"width": 16, "coarse_samples": 8, "fine_samples": 8, "probes": 24, "max_degree": 5}


@pytest.mark.parametrize(("name", "options"), [("mipgrid", GRID), ("mipnerf", LOOKS), ("nerf", LOOKS)])
def test_points_alone_teach_a_field(data, name, options):
    _, sparse, scene = data
    told = SparseDepth(scene, sparse)
    renderer = medrecon.create("renderer", name, **options)
    renderer.setup(scene, scene.train_ids, 0)
    optimiser = renderer.optimiser(1e-2)
    losses = []
    for step in range(40):
        loss = told.loss(renderer, 64, torch.Generator().manual_seed(step))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_only_those_that_meet_surfaces_are_told(tmp_path, data, monkeypatch):
    frames, sparse, _ = data
    asked = []
    real = SparseDepth.loss
    monkeypatch.setattr(SparseDepth, "loss", lambda *a: asked.append(1) or real(*a))
    for weight, meets, expected in ((0.01, True, 2), (0.0, True, 0), (0.01, False, 0)):
        asked.clear()
        renderer = medrecon.create("renderer", "mipgrid", **GRID)
        renderer.meets_surfaces = meets
        training = TrainingConfig(iterations=2, max_size_px=24, evaluate_every=0, depth_weight=weight)
        train(frames, sparse, renderer, training, tmp_path / f"{weight}{meets}", 0, "cpu", Quiet())
        assert len(asked) == expected

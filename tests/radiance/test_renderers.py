# SPDX-License-Identifier: Apache-2.0
"""Rendering against closed forms: an analytic ball as the field, appearance that touches colour only."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import medrecon
from medrecon import ops
from medrecon.errors import InputError
from medrecon.radiance import Scene, TrainingConfig
from medrecon.radiance.appearance import AppearanceCodes
from medrecon.radiance.cube_occupancy import CubeOccupancy
from medrecon.radiance.occupancy import OccupancyGrid

sys.path.insert(0, str(Path(__file__).parent))
from radiance_ball import CENTRE, RADIUS, ball, trace  # noqa: E402

SMALL = {"width": 16, "coarse_samples": 64, "fine_samples": 128, "max_degree": 4}
SMALL_GRID = {"width": 16, "levels": 4, "log2_size": 12, "finest": 64, "samples": 96, "occupancy_cells": 32}
ALL = ["nerf", "mipnerf", "mipgrid"]


@pytest.fixture(scope="module")
def scene_and_sparse(tmp_path_factory):
    frames, sparse = ball(tmp_path_factory.mktemp("ball"), n=8, size=24)
    return Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=24)), sparse


def ready(scene, name="mipnerf", seed=0, **options):
    renderer = medrecon.create("renderer", name, **{**(SMALL_GRID if name == "mipgrid" else SMALL), **options})
    renderer.setup(scene, scene.train_ids, seed)
    return renderer.eval()


class BallField(torch.nn.Module):
    """Stands in for the network: density and colour of the test's ball. Gets positions as "encoding"."""

    def __init__(self, scene):
        super().__init__()
        self.centre = torch.tensor(scene.field_from_sfm.apply(CENTRE), dtype=torch.float32)
        self.radius = RADIUS * scene.field_from_sfm.scale

    def features(self, xyz):
        return xyz

    def density(self, xyz):
        return 400.0 * ((xyz - self.centre).norm(dim=-1) < self.radius).float()

    def colour(self, xyz, view, ray):
        # The scene's frame is a scaled and shifted one, never turned: normals are those of the oracle.
        return 0.5 + 0.35 * (xyz - self.centre) / self.radius


def test_an_analytic_ball_is_rendered_as_in_closed_form(scene_and_sparse):
    """Colour, z-depth and opacity of a ball against ray tracing."""
    scene, sparse = scene_and_sparse
    renderer = ready(scene, "nerf")
    renderer.networks = torch.nn.ModuleList([BallField(scene)] * 2)
    renderer.encode_points = lambda xyz: xyz
    for frame_id in scene.train_ids[:3]:
        with torch.no_grad():
            out = renderer.render(scene.rays(frame_id))
        rgb, depth = trace(sparse.cameras[frame_id], sparse.cam_from_world[frame_id], supersample=1)
        hit = depth.ravel() > 0
        assert np.abs(out.opacity.numpy() - hit).max() < 0.35 and np.abs(out.opacity.numpy() - hit).mean() < 0.01
        solid = out.opacity.numpy() > 0.99
        assert solid.sum() > 0.8 * hit.sum()
        mine = out.depth.numpy() / scene.field_from_sfm.scale
        assert np.abs(mine - depth.ravel())[solid & hit].max() < 0.05 * RADIUS
        assert (
            np.abs(out.depth_median.numpy() / scene.field_from_sfm.scale - depth.ravel())[solid & hit].max()
            < 0.05 * RADIUS
        )
        assert np.abs(out.rgb.numpy() * 255 - rgb.reshape(-1, 3))[solid & hit].max() < 10
        assert (out.rgb.numpy()[out.opacity.numpy() == 0] == 0).all()


def test_mipnerf_in_one_pass_is_its_layers_one_after_the_other(scene_and_sparse):
    """Colour, weights and the gradients of every parameter against the network's own modules and `ops.composite`."""
    scene, _ = scene_and_sparse
    renderer = ready(scene, depth=3)
    rays, network = scene.rays(scene.train_ids[0])[torch.arange(0, 576, 9)], renderer.networks[0]
    generator = torch.Generator().manual_seed(1)
    n, s, n_view = len(rays), 12, network.colour_from_view.in_features
    t = rays.near + (rays.far - rays.near) * torch.rand(n, s + 1, generator=generator).sort(-1).values
    inside, view = torch.rand(n, s, generator=generator) < 0.6, torch.randn(n, n_view, generator=generator)

    encoded = ops.integrated_positional_encoding(
        *ops.cast_rays(t, rays.origins, rays.directions, rays.radii), 0, SMALL["max_degree"]
    )
    features = network.features(encoded.flatten(0, 1))
    density = network.density(features).view(n, s) * inside
    ray = torch.arange(n).repeat_interleave(s)
    rgb = network.colour(features, view, ray).view(n, s, 3)
    expected = ops.composite(rgb, density, t, rays.directions)
    found = renderer.composite(network, rays, t, inside, view)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    push = [torch.randn(x.shape, generator=generator) for x in expected]
    parameters = list(network.parameters())
    gradients = [torch.autograd.grad(x, parameters, push) for x in (found, expected)]
    for parameter, a, b in zip(parameters, *gradients):
        assert a.shape == parameter.shape and (a - b).norm() < 1e-4 * b.norm()


def test_mipgrid_in_one_pass_is_its_steps_one_after_the_other(scene_and_sparse):
    """Colours of the fused kernel against marching, encoding, network and compositing; the loss against both."""
    scene, _ = scene_and_sparse
    renderer = ready(scene, "mipgrid", depth=2)
    with torch.no_grad():
        renderer.table.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
        rays = scene.rays(scene.train_ids[0])
        whole = renderer.render(rays)
        assert (whole.opacity > 0.5).any() and whole.rgb.std() > 0.05
        basic = renderer.render_basic(rays)
        for name in ("rgb", "depth", "opacity"):
            torch.testing.assert_close(getattr(basic, name), getattr(whole, name), rtol=1e-4, atol=1e-5)
        # Density per field unit, as everywhere: twice the length of the grid's cube.
        xyz = torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
        sigma = torch.full((500,), renderer._step / np.sqrt(12))
        features = renderer.network.features(renderer._encode(xyz, sigma))
        inside = renderer.occupancy.contains(xyz)
        torch.testing.assert_close(renderer.density(xyz), renderer.network.density(features) / 2 * inside)


def test_mipgrid_follows_a_ray_to_its_end_however_short_the_steps(scene_and_sparse):
    """Thin even fog: what it lets through does not depend on the length of the steps."""
    scene, _ = scene_and_sparse
    rays = scene.rays(scene.train_ids[0])
    opacities = []
    for samples in (128, 4096):
        renderer = ready(scene, "mipgrid", samples=samples, density_shift=-1.0, occupancy_cells=8)
        with torch.no_grad():
            renderer.occupancy.bits.fill_(255)
            opacities.append([renderer.render(rays).opacity, renderer.render_basic(rays).opacity])
    for coarse, fine in zip(*opacities):
        assert coarse.max() > 0.3
        torch.testing.assert_close(fine, coarse, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("name", ALL)
def test_appearance_leaves_density_and_depth_bitwise_alone(scene_and_sparse, name):
    scene, _ = scene_and_sparse
    renderer = ready(scene, name)
    rays = scene.rays(scene.train_ids[0])
    loud = torch.full((48,), 50.0)
    with torch.no_grad():
        quiet, changed = renderer.render(rays, torch.zeros(48)), renderer.render(rays, loud)
        assert torch.equal(quiet.depth, changed.depth) and torch.equal(quiet.opacity, changed.opacity)
        assert torch.equal(quiet.depth_std, changed.depth_std)
        assert (quiet.rgb - changed.rgb).abs().max() > 0.01
        xyz = torch.rand(100, 3) * 2 - 1
        before = renderer.density(xyz)
        renderer.appearance.codes.add_(7.0)
        assert torch.equal(before, renderer.density(xyz))


@pytest.mark.parametrize("name", ALL)
def test_no_gradient_from_density_to_codes_or_from_codes_to_density(scene_and_sparse, name):
    scene, _ = scene_and_sparse
    renderer = ready(scene, name)
    out = renderer.render(scene.rays(scene.train_ids[0]))
    assert out.depth.requires_grad
    (depth_grad,) = torch.autograd.grad(
        out.depth.sum() + out.opacity.sum(), renderer.appearance.codes, allow_unused=True
    )
    assert depth_grad is None or not depth_grad.abs().any()


@pytest.mark.parametrize("name", ALL)
def test_a_heldout_id_never_reads_a_training_row(scene_and_sparse, name):
    """All training rows are poisoned with NaN: what is rendered for another id must stay clean."""
    scene, _ = scene_and_sparse
    renderer = ready(scene, name)
    with torch.no_grad():
        renderer.appearance.codes.fill_(float("nan"))
        for unknown in (scene.heldout_ids[0], -1, 10**9):
            rays = scene.rays(scene.heldout_ids[0])
            rays.frame_ids.fill_(unknown)
            assert torch.isfinite(renderer.render(rays).rgb).all()
            assert torch.isfinite(renderer.render(rays, "zero").rgb).all()
        # The poison works: a training id does read its row.
        assert torch.isnan(renderer.render(scene.rays(scene.train_ids[0])).rgb).any()


def test_each_training_id_reads_its_own_row_whatever_the_order():
    codes = AppearanceCodes([30, 10, 20], 4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for row, frame_id in enumerate(codes.frame_ids.tolist()):
            codes.codes[row] = frame_id
    ids = torch.tensor([20, 10, 10, 30, 5, 25, 99])
    assert codes(ids)[:, 0].tolist() == [20, 10, 10, 30, 0, 0, 0]
    assert codes(ids, "mean")[:, 0].tolist() == [20, 10, 10, 30, 20, 20, 20]
    assert (codes(ids, torch.full((4,), 3.0)) == 3).all()
    for wrong in ("median", torch.zeros(5)):
        with pytest.raises(InputError):
            codes(ids, wrong)


@pytest.mark.parametrize("name", ALL)
def test_only_codes_of_pictures_in_the_batch_get_a_gradient(scene_and_sparse, name):
    scene, _ = scene_and_sparse
    renderer = ready(scene, name).train()
    rays = scene.rays(scene.train_ids[2])
    loss, figures = renderer.loss(
        rays, torch.rand(len(rays), 3), torch.ones(len(rays)), 0, torch.Generator().manual_seed(0)
    )
    loss.backward()
    moved = renderer.appearance.codes.grad.abs().sum(1) > 0
    assert moved.tolist() == [i == scene.train_ids[2] for i in sorted(scene.train_ids)]
    assert np.isfinite(figures["psnr_db"])


@pytest.mark.parametrize("name", ALL)
def test_zero_weight_rays_do_not_count(scene_and_sparse, name):
    scene, _ = scene_and_sparse
    renderer = ready(scene, name).train()
    rays = scene.rays(scene.train_ids[0])
    rgb = torch.rand(len(rays), 3, generator=torch.Generator().manual_seed(1))
    weight = (torch.arange(len(rays)) % 2).float()
    other = rgb.clone()
    other[weight == 0] = 0.123
    loss = lambda c, w: float(renderer.loss(rays, c, w, 0, torch.Generator().manual_seed(0))[0].detach())  # noqa: E731
    assert loss(rgb, weight) == loss(other, weight)
    assert loss(rgb, weight) != loss(rgb, 1 - weight)


def test_mipnerf_has_one_network_and_nerf_two(scene_and_sparse):
    scene, _ = scene_and_sparse
    assert len(ready(scene, "mipnerf").networks) == 1 and len(ready(scene, "nerf").networks) == 2


@pytest.mark.parametrize("name", ALL)
def test_density_is_zero_where_the_pictures_show_emptiness(scene_and_sparse, name):
    scene, _ = scene_and_sparse
    renderer = ready(scene, name)
    corners = torch.tensor([[-0.97, -0.97, -0.97], [0.97, 0.97, 0.97], [3.0, 0, 0]])
    middle = torch.tensor(scene.field_from_sfm.apply(CENTRE), dtype=torch.float32)[None]
    with torch.no_grad():
        assert (renderer.density(corners) == 0).all() and renderer.density(middle) > 0


@pytest.mark.parametrize("cube", [False, True])
def test_occupancy_follows_a_density(scene_and_sparse, cube):
    """After enough looks exactly the cells of the ball are left; cells known to be empty never come back."""
    scene, _ = scene_and_sparse
    grid = CubeOccupancy(scene, 32, 0.02) if cube else OccupancyGrid(scene, 32, 0.02)
    field = BallField(scene)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(4000, 3, generator=generator) * 2.2 - 1.1
    known = grid.contains(points)
    assert 0 < known.float().mean() < 0.5
    for _ in range(80):
        grid.refresh(field.density, 4, generator)
    away = (points - field.centre).norm(dim=-1) - field.radius
    cell = 2 / 32
    found = grid.contains(points)
    assert found[away < -2 * cell].all() and not found[away > 2 * cell].any()
    for _ in range(40):
        grid.refresh(lambda xyz: torch.full((len(xyz),), 1e3), 4, generator)
    assert torch.equal(grid.contains(points), known)


def test_occupancy_near_a_wide_cone(scene_and_sparse):
    """One cell is left: whoever asks with a radius hears of it from as far away, and not from much farther."""
    scene, _ = scene_and_sparse
    grid = OccupancyGrid(scene, 32, 0.02)
    at = np.array(grid.shape) // 2
    one = torch.zeros(grid.shape, dtype=torch.bool)
    one[tuple(at)] = True
    grid.occupied.copy_(one.flatten())
    generator = torch.Generator().manual_seed(0)
    middle = grid.low + (torch.tensor(at) + 0.5) / grid.inverse_cell
    points = middle + (torch.rand(6000, 3, generator=generator) - 0.5) * 20 / grid.inverse_cell
    steps = ((points - middle) * grid.inverse_cell).abs().amax(1)  # cells along the farthest axis
    assert torch.equal(grid.contains(points), steps < 0.5)
    radius = torch.rand(6000, generator=generator) * 8 * grid.cell
    found, wide = grid.contains(points, radius), radius / grid.cell
    assert found[steps < 0.5].all() and found[steps <= wide - 1].all() and found.sum() > 100
    # A reach is rounded up, by a half at most, and a cell is a cell wide.
    assert not found[steps > 1.5 * wide.clamp(min=1) + 1].any()
    assert torch.equal(grid.contains(points, radius.clamp(max=grid.cell)), grid.contains(points))
    # What is widened follows the grid.
    grid.occupied.fill_(False)
    assert not grid.contains(points, radius).any()


def test_wide_cones_of_mipnerf_see_matter_beside_their_middle(scene_and_sparse):
    """A pixel as wide as the ball, looking past it: `nerf` finds no matter along its ray, `mipnerf` does."""
    scene, _ = scene_and_sparse
    rays = scene.rays(scene.train_ids[0])
    for name, expected in (("nerf", False), ("mipnerf", True)):
        renderer = ready(scene, name, occupancy_cells=32)
        missed = [i for i in range(len(rays)) if i not in set(renderer._first_edges(rays, None)[0].tolist())]
        past = rays[torch.tensor(missed)]
        past = past[(past.far > past.near).squeeze(1).nonzero().squeeze(1)]
        past.radii.mul_(10)
        assert len(past) > 0 and bool(len(renderer._first_edges(past, None)[0])) is expected

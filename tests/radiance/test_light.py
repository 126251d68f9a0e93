# SPDX-License-Identifier: Apache-2.0
"""A light on the camera: the laws it follows, and gradients against those of the plain formula."""

import sys
from pathlib import Path

import pytest
import torch

import medrecon
from medrecon.radiance import Scene, TrainingConfig
from medrecon.radiance.light import LEAST_COSINE, CameraLight, surface_cosine
from medrecon.types import RayBatch

sys.path.insert(0, str(Path(__file__).parent))
from radiance_ball import ball  # noqa: E402

GRID = {"width": 16, "levels": 4, "log2_size": 12, "finest": 64, "samples": 64, "occupancy_cells": 32,
        "light": "camera"}  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    torch.set_num_threads(1)
    frames, sparse = ball(tmp_path_factory.mktemp("ball"), n=8, size=24)
    return Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=24))


@pytest.fixture
def renderer(scene):
    made = medrecon.create("renderer", "mipgrid", **GRID)
    made.setup(scene, scene.train_ids, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a field with some structure, and rays of all opacities
        made.table.copy_(torch.rand(made.table.shape, generator=generator) - 0.5)
        made.light.exponents.copy_(torch.tensor([1.5, 0.5]))
    return made


def rays_at(angles: list[float]) -> RayBatch:
    tangent = torch.tan(torch.tensor(angles))
    directions = torch.stack([tangent, torch.zeros_like(tangent), torch.ones_like(tangent)], -1)
    n = len(angles)
    ones = torch.ones(n, 1)
    return RayBatch(torch.zeros(n, 3), directions, 0.01 * ones, 0.1 * ones, 4 * ones, torch.zeros(n, dtype=torch.int64))


def test_inverse_square_and_power_of_the_cosine(scene):
    light = CameraLight(scene)
    with torch.no_grad():
        light.exponents.copy_(torch.tensor([2.0, 0.0]))
        near, far = light(rays_at([0.0, 0.0]), light.reference * torch.tensor([0.7, 1.4]))
        assert float(near / far) == pytest.approx(4, rel=1e-5)
        # The way is what counts, not the z-depth: at 60 degrees it is twice as long.
        middle, aside = light(rays_at([0.0, torch.pi / 3]), light.reference * torch.tensor([1.0, 1.0]))
        assert float(middle / aside) == pytest.approx(4, rel=1e-5)
        light.exponents.copy_(torch.tensor([0.0, 1.5]))
        middle, aside = light(rays_at([0.0, torch.pi / 3]), light.reference * torch.tensor([1.0, 0.5]))
        assert float(aside / middle) == pytest.approx(0.5**1.5, rel=1e-5)
        assert light(rays_at([0.0, 0.5]), torch.tensor([0.0, 0.0])).tolist() == [1.0, 1.0]
        light.exponents.copy_(torch.tensor([2.0, 0.0]))
        assert light(rays_at([0.0, 0.0]), light.reference * torch.tensor([0.01, 100.0])).tolist() == [4.0, 0.25]


def test_colours_are_brightened_and_nothing_else(scene, renderer):
    plain = medrecon.create("renderer", "mipgrid", **{**GRID, "light": "none"})
    plain.setup(scene, scene.train_ids, 0)
    plain.load_state_dict({k: v for k, v in renderer.state_dict().items() if not k.startswith("light.")})
    rays = scene.rays(scene.train_ids[0])
    with torch.no_grad():
        for call in ("render", "render_basic"):
            lit, dark = getattr(renderer, call)(rays), getattr(plain, call)(rays)
            assert torch.equal(lit.depth, dark.depth) and torch.equal(lit.opacity, dark.opacity)
            expected = (dark.rgb * renderer.light(rays, dark.depth)[:, None]).clamp(0, 1)
            assert torch.equal(lit.rgb, expected) and not torch.equal(lit.rgb, dark.rgb)


def test_gradients_are_those_of_the_plain_formula(scene, renderer):
    """The loss goes through a kernel that knows no light; autograd through the light's own product is the oracle."""
    rays = scene.rays(scene.train_ids[1])[100:400]
    generator = torch.Generator().manual_seed(2)
    rgb = torch.rand(len(rays), 3, generator=generator)
    share = torch.rand(len(rays), generator=generator) / len(rays)
    wanted = [renderer.table, renderer.light.exponents, renderer.network.colour_head.weight]

    loss, _ = renderer._lit_loss(rays, rgb, share, torch.zeros(len(rays)))
    found = torch.autograd.grad(loss, wanted)

    from medrecon import ops

    colour, depth, _, _ = renderer._fused(ops.fused_grid, rays, None)
    plain = (share * ((renderer.light(rays, depth.detach())[:, None] * colour - rgb) ** 2).mean(-1)).sum()
    expected = torch.autograd.grad(plain, wanted)
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-4)
    for a, b in zip(found, expected):
        assert b.abs().max() > 0 and torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def parallel_rays(x: torch.Tensor) -> RayBatch:
    """From (x, 0.1, -2), along z and a little aside, not of unit length."""
    n = len(x)
    origins = torch.stack([x, torch.full_like(x, 0.1), torch.full_like(x, -2.0)], -1)
    ones = torch.ones(n, 1)
    directions = torch.tensor([[0.2, 0.0, 1.0]]).repeat(n, 1)
    return RayBatch(origins, directions, 0.01 * ones, 0.1 * ones, 4 * ones, torch.zeros(n, dtype=torch.int64))


def sphere(rays: RayBatch, radius: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """z-depth [N] at which rays meet a sphere round the origin, 0 where they miss it, and the cosine there."""
    o, d = rays.origins, rays.directions
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - radius**2
    under = b * b - a * c
    t = torch.where(under > 0, (-b - under.clamp(min=0).sqrt()) / a, 0.0)
    return t, -((o + t[:, None] * d) / radius * d).sum(-1) / a.sqrt()


@pytest.mark.parametrize("edge", [0.004, 0.01])
def test_cosine_of_a_sphere_and_of_nothing(edge):
    def density(xyz):
        return 300 * torch.sigmoid((0.5 - xyz.norm(dim=-1)) / edge)

    rays = parallel_rays(torch.linspace(-1.1, 0.2, 200))
    depth, expected = sphere(rays)
    found = surface_cosine(density, rays, depth, 0.02)
    hit = depth > 0
    assert 50 < hit.sum() < 180 and (found[~hit] == 1).all() and found.min() >= LEAST_COSINE
    assert (found - expected)[hit].abs().max() < 0.1
    assert (found - expected)[hit].abs().mean() < 0.02
    assert (surface_cosine(lambda xyz: torch.full_like(xyz[:, 0], 9.0), rays, depth, 0.02) == 1).all()  # even fog


def test_cosine_of_a_plane_is_that_of_its_normal():
    normal = torch.nn.functional.normalize(torch.tensor([0.6, -0.3, -1.0]), dim=0)
    rays = parallel_rays(torch.linspace(-0.3, 0.3, 20))
    depth = -(rays.origins @ normal) / (rays.directions @ normal)
    found = surface_cosine(lambda xyz: 100 * torch.sigmoid(-(xyz @ normal) / 0.02), rays, depth, 0.02)
    expected = -(rays.directions[0] @ normal) / rays.directions[0].norm()
    assert torch.allclose(found, expected.expand(20), atol=5e-3)


def test_the_exponents_of_a_lit_sphere_are_found(scene):
    """Of the brightness of a white sphere under a point light: 2 of the distance, 1 of the cosine, 0 of the rim."""
    rays = parallel_rays(torch.linspace(-0.6, -0.2, 50))
    rays.directions[:, 1] += torch.linspace(-0.05, 0.05, 50)
    rays.origins[::2, 2] += 0.7
    depth, cosine = sphere(rays)
    hit = depth > 0
    rays, depth, cosine = rays[hit], depth[hit], cosine[hit].clamp(0.1)
    light = CameraLight(scene, cosine=True)
    seen = (light.reference / (depth * rays.directions.norm(dim=-1))) ** 2 * cosine
    light.LIMIT = 1e3
    optimiser = torch.optim.LBFGS(
        light.parameters(), max_iter=200, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss():
        optimiser.zero_grad()
        value = ((light(rays, depth, cosine) / seen - 1) ** 2).mean()
        value.backward()
        return value

    optimiser.step(loss)
    assert hit.sum() > 20 and torch.allclose(light.exponents.detach(), torch.tensor([2.0, 0.0, 1.0]), atol=0.02)


def test_a_field_is_darker_where_it_is_seen_from_the_side(scene):
    made = medrecon.create("renderer", "mipgrid", **{**GRID, "light": "camera-cosine"})
    made.setup(scene, scene.train_ids, 0)
    with torch.no_grad():
        made.table.copy_(torch.rand(made.table.shape, generator=torch.Generator().manual_seed(1)) - 0.5)
        rays = scene.rays(scene.train_ids[0])
        before = made.render_basic(rays)
        made.light.exponents[2] = 1.0
        after = made.render_basic(rays)
        cosine = surface_cosine(made.density, rays, before.depth, 4 / GRID["samples"])
    assert torch.equal(before.depth, after.depth) and 0.1 < float(cosine.std())
    expected = before.rgb * cosine.clamp(1 / CameraLight.LIMIT)[:, None]
    assert torch.allclose(after.rgb, expected, atol=1e-6)
    loss, _ = made.loss(rays, before.rgb, torch.ones(len(rays)), 1, torch.Generator().manual_seed(0))
    loss.backward()
    assert made.light.exponents.grad[2] != 0

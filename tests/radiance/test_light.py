# SPDX-License-Identifier: Apache-2.0
"""A light on the camera: the laws it follows, and gradients against those of the plain formula."""

import sys
from pathlib import Path

import pytest
import torch

import medrecon
from medrecon.radiance import Scene, TrainingConfig
from medrecon.radiance.light import CameraLight
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

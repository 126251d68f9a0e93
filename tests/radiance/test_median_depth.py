# SPDX-License-Identifier: Apache-2.0
"""The median depth in closed form, and depths rendered without colour."""

import math

import pytest
import torch

import medrecon
from medrecon import ops
from medrecon.radiance.packed import median_within, render_out
from medrecon.testing import phantoms

SMALL = {
    "nerf": {"width": 16, "coarse_samples": 8, "fine_samples": 8, "max_degree": 4, "occupancy_cells": 16},
    "mipgrid": {"levels": 4, "log2_size": 12, "finest": 64, "width": 16, "samples": 64, "occupancy_cells": 16},
}
SMALL["mipnerf"] = SMALL["nerf"]


@pytest.mark.parametrize("density", [0.9, 3.0, 40.0])
def test_in_a_homogeneous_body_it_is_the_half_value_depth(density):
    # Matter from t = 1 on, in samples much longer than the half-value depth ln 2 / density: they must not be seen.
    edges = torch.linspace(1, 5, 9, dtype=torch.float64)
    tau = density * (edges[1:] - edges[:-1])
    weights = torch.exp(-density * (edges[:-1] - 1)) * -torch.expm1(-tau)
    counts = torch.tensor([0, 0, 8, 16])  # offsets of three rays: nothing, all, all again
    two = lambda x: torch.cat([x, x])  # noqa: E731
    ray = torch.tensor([1] * 8 + [2] * 8, dtype=torch.int32)
    packed = ops.Packed(counts, ray, two(edges[:-1]), two(edges[1:]))
    out = render_out(torch.zeros(3, 3, dtype=torch.float64), two(weights), packed)
    assert out.depth_median[1:].tolist() == pytest.approx([1 + math.log(2) / density] * 2, abs=1e-5)
    assert out.depth_median[0] == 0
    # The mean of an exponential distribution, up to the middles that stand for whole samples.
    assert out.depth[1].item() == pytest.approx(1 + 1 / density, abs=0.3)


def test_at_the_border_of_a_sample():
    t0, t1, half = torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor([0.5])
    assert median_within(t0, t1, half, half).item() == pytest.approx(2.0)
    assert median_within(t0, t1, torch.ones(1), half).item() == pytest.approx(3.0)
    assert median_within(t0, t1, half, torch.zeros(1)).item() == pytest.approx(2.0)
    assert 2.0 <= median_within(t0, t1, torch.ones(1), torch.ones(1)).item() < 2.1  # opaque: at its front


@pytest.mark.parametrize("name", list(SMALL))
def test_depth_without_colour_is_that_with_it(name):
    scene = phantoms.scene()
    renderer = medrecon.create("renderer", name, **SMALL[name])
    renderer.setup(scene, scene.train_ids, 0)
    renderer.eval()
    rays = scene.rays(scene.train_ids[0])
    with torch.no_grad():
        a, b = renderer.render(rays), renderer.render_depth(rays)
    assert a.opacity.max() > 0.1
    for part in ("depth", "opacity", "depth_median", "depth_std"):
        assert torch.equal(getattr(a, part), getattr(b, part)), part

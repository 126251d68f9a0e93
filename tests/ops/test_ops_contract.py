# SPDX-License-Identifier: Apache-2.0
"""Marching and rendering through a contracted space, against closed forms and the plain-torch twin."""

import math

import numpy as np
import pytest
import torch

from medrecon import ops
from medrecon.ops import reference

F64 = torch.float64


def by_the_paper(x):
    """mip-NeRF 360, eq. 10, for numpy points [M, 3] of the cube."""
    u = 4 * (np.asarray(x) - 0.5)
    r = np.linalg.norm(u, axis=-1, keepdims=True)
    return 0.5 + np.where(r <= 1, u, (2 - 1 / np.maximum(r, 1)) * u / np.maximum(r, 1)) / 4


def test_contraction_and_its_jacobian():
    x = torch.randn(40, 3, dtype=F64, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.5
    places, across, radial = reference.contract(x)
    assert np.allclose(places, by_the_paper(x), rtol=1e-12)
    far = (x - 0.5).norm(dim=-1) > 0.25
    assert 5 < far.sum() < 35 and torch.equal(places[~far], x[~far])
    for point, a, r in zip(x, across, radial):
        jacobian = torch.autograd.functional.jacobian(lambda p: reference.contract(p[None])[0][0], point)
        assert np.allclose(np.linalg.eigvalsh(jacobian), sorted([r, a, a]), rtol=1e-9)


def rays(n, seed=0):
    """From within the inner ball, from outside, and one that stands still."""
    g = torch.Generator().manual_seed(seed)
    origins = 0.5 + torch.randn(n, 3, generator=g, dtype=F64) * torch.rand(n, 1, generator=g, dtype=F64) * 0.5
    directions = torch.randn(n, 3, generator=g, dtype=F64)
    directions[0] = 0
    near = torch.rand(n, generator=g, dtype=F64) * 0.1
    return origins, directions, near, near + 20 * torch.rand(n, generator=g, dtype=F64)


@pytest.fixture(params=["chosen", "reference"])
def march(request):
    if request.param == "chosen":
        return ops.march_rays
    return lambda *a, **k: ops.Packed(*reference.march_rays(*a, **k))


def test_intervals_are_equally_long_where_space_is_contracted(march):
    origins, directions, near, far = rays(30)
    far = near + 0.1 * (far - near)  # very far away a step falls short
    full = torch.full((8**3 // 8,), 255, dtype=torch.uint8)
    step = 2e-4
    found = march(origins, directions, near, far, full, 8, step, contract=True, max_samples=10**6)
    ray = found.ray.long()
    ends = [by_the_paper(origins[ray] + t[:, None] * directions[ray]) for t in (found.t0, found.t1)]
    length = np.linalg.norm(ends[1] - ends[0], axis=1)[ray > 0]
    assert np.allclose(length / directions[ray[ray > 0]].norm(dim=-1).numpy(), step, rtol=0.02)
    for n in range(1, 30):  # without a gap from near to far
        t0, t1 = (t[found.offsets[n] : found.offsets[n + 1]] for t in (found.t0, found.t1))
        assert torch.equal(t0[1:], t1[:-1]) and t0[0] == near[n]
        assert (t0[-1] + t1[-1]) / 2 < far[n] <= t1[-1] + (t1[-1] - t0[-1])


def test_only_occupied_cells_of_the_contracted_space_are_given(march):
    inputs = rays(60)
    cells = np.random.default_rng(0).random((9, 9, 9)) < 0.3
    bits = torch.from_numpy(np.packbits(cells.transpose(2, 1, 0).ravel(), bitorder="little"))
    full = torch.full_like(bits, 255)
    jitter = torch.rand(60, dtype=F64)
    found, every = (march(*inputs, b, 9, 0.01, jitter=jitter, contract=True) for b in (bits, full))
    ray = every.ray.long()
    middle = (every.t0 + every.t1) / 2
    i, j, k = (by_the_paper(inputs[0][ray] + middle[:, None] * inputs[1][ray]) * 9).astype(int).T
    assert torch.equal(found.t0, every.t0[cells[i, j, k]]) and len(found.t0) > 500
    assert torch.equal(found.ray, every.ray[cells[i, j, k]])


def test_what_is_refused():
    inputs, bits = rays(3), torch.zeros(1, dtype=torch.uint8)
    with pytest.raises(ValueError, match="cone is 0.1, which must be 0"):
        ops.march_rays(*inputs, bits, 2, 0.1, 0.1, contract=True)


def a_field(n, dtype, generator):
    """Arguments of fused_grid behind the occupancy, with random numbers."""
    resolutions, log2_size, width = (3, 6, 12), 9, 8
    table = torch.randn(ops.grid_levels(resolutions, log2_size)[-1], 2, generator=generator).to(dtype)
    parameters = torch.randn(7 * width + width + 1 + width * (width + 3) + 3, generator=generator).to(dtype) / 2
    bias = torch.randn(n, width, generator=generator).to(dtype)
    options = {"resolutions": resolutions, "log2_size": log2_size, "width": width, "colour_width": width}
    return [x.requires_grad_() for x in (table, parameters, bias)], options


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_fused_field_equals_its_twin(kind):
    generator = torch.Generator().manual_seed(3)
    inputs = [x.to(kind) for x in rays(80)]
    bits = torch.randint(0, 256, (8**3 // 8,), generator=generator).to(torch.uint8)
    leaves, options = a_field(80, kind, generator)
    options |= {"resolution": 8, "step": 1 / 64, "contract": True, "density_shift": 3.0, "stop": 1e-3}
    radii, target = torch.full((80,), 0.02, dtype=kind), torch.rand(80, 3, generator=generator).to(kind)
    weight = torch.rand(80, generator=generator).to(kind)

    found = ops.fused_grid(*inputs, bits, *leaves, radii=radii, **options)
    loss = ops.fused_grid_loss(*inputs, bits, *leaves, target, weight, radii=radii, **options)[0]
    # rays that require gradients are put together from single ops
    moving = inputs[0].clone().requires_grad_()
    truth = ops.fused_grid(moving, *inputs[1:], bits, *leaves, radii=radii, **options)
    error = (weight * ((truth[0] - target) ** 2).mean(-1)).sum()
    close = 1e-9 if kind == F64 else 2e-3
    assert float(truth[2].detach().mean()) > 0.2 and torch.equal(found[3], truth[3])
    for a, b in zip(found[:3], truth[:3]):
        assert torch.allclose(a, b, rtol=close, atol=close)
    for name, a, b in (("rgb", found[0].sum(), truth[0].sum()), ("loss", loss, error)):
        gradients = [torch.autograd.grad(x, leaves, retain_graph=True) for x in (a, b)]
        for x, y in zip(*gradients):
            assert torch.allclose(x, y, rtol=close, atol=close * float(y.abs().max())), name
    assert torch.autograd.grad(error, moving)[0].abs().max() > 0


def test_even_matter_of_the_contracted_space():
    """Density 1 per contracted length to the middle is 1 / r^2 in space: along a line at a distance b from the middle
    (both in radii of the inner ball) the integral is atan(t / b) / b outside the ball, t within."""
    leaves, options = a_field(2, F64, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for x in leaves:
            x.zero_()
    origins = torch.tensor([[0.5, 0.5, 0.5], [0.5 - 0.3, 0.5 + 0.5, 0.5]], dtype=F64)
    directions = torch.tensor([[0, 0, 2.0], [1.0, 0, 0]], dtype=F64)
    far = torch.tensor([3.0, 5.0], dtype=F64)
    bits = torch.full((1,), 255, dtype=torch.uint8)
    _, _, opacity, _ = ops.fused_grid(
        origins, directions, torch.zeros(2, dtype=F64), far, bits, *leaves, resolution=2, step=1e-4,
        max_samples=10**6, contract=True, **options,
    )  # fmt: skip
    radius = 0.25
    straight = radius * (2 - radius / 6.0)
    b = 0.5 / radius
    beside = radius / b * (math.atan(4.7 / 0.5) + math.atan(0.3 / 0.5))
    assert np.allclose(opacity.detach(), [1 - math.exp(-straight), 1 - math.exp(-beside)], rtol=1e-3)

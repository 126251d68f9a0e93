# SPDX-License-Identifier: Apache-2.0
"""grid_encode against closed forms, a plain loop and Monte Carlo; kernels against the float64 reference; its gradients."""

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import norm

from medrecon import ops
from medrecon.ops import backends, reference

GRIDS = {  # resolutions, log2_size: dense and hashed levels; so small a hash that neighbours on x wrap around
    "mixed": ((3, 5, 11, 40), 10),
    "dense": ((1, 2, 4), 12),
    "wrapping": ((6, 9), 3),
    "one entry": ((4,), 0),
    "tiny": ((1, 2), 4),
}


def inputs(grid, samples=57, features=2, dtype=torch.float64, sigma=True):
    resolutions, log2_size = GRIDS[grid]
    x = torch.rand(samples, 3, dtype=dtype)
    spread = torch.rand(samples, dtype=dtype) * 0.2 + 0.01 if sigma else None
    table = torch.randn(ops.grid_levels(resolutions, log2_size)[-1], features, dtype=dtype)
    return x, spread, table, resolutions, log2_size


def by_a_loop(x, sigma, table, resolutions, log2_size):
    """One sample, one level, one corner at a time, in Python's own integers."""
    out, first = [], 0
    for n in resolutions:
        dense = (n + 1) ** 3 <= 2**log2_size
        node = [min(int(c * n), n - 1) for c in x]
        total = np.zeros(table.shape[1])
        for step in itertools.product((0, 1), repeat=3):
            i, j, k = (a + b for a, b in zip(node, step))
            weight = math.prod(1 - abs(c * n - a) for c, a in zip(x, (i, j, k)))
            entry = (
                i + (n + 1) * j + (n + 1) ** 2 * k
                if dense
                else (i + ((j * 2654435761) ^ (k * 805459861))) % 2**log2_size
            )
            total += weight * table[first + entry]
        if sigma is not None:  # the share of the Gaussian within half a cell
            total *= 1 - 2 * norm.cdf(-0.5 / n / sigma)
        out.append(total)
        first += (n + 1) ** 3 if dense else 2**log2_size
    return np.concatenate(out)


@pytest.fixture(params=["chosen", "reference"])
def encode(request):
    return ops.grid_encode if request.param == "chosen" else reference.grid_encode


def test_levels_lie_one_after_the_other():
    assert ops.grid_levels((3, 9, 100), 10) == (0, 64, 64 + 1000, 64 + 1000 + 1024)
    assert ops.grid_levels((), 4) == (0,)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sigma", [False, True])
@pytest.mark.parametrize("features", [1, 2, 3, 4])
def test_equals_a_plain_loop(encode, grid, sigma, features):
    x, spread, table, *grid = inputs(grid, 23, features, sigma=sigma)
    found = encode(x, spread, table, *grid)
    spreads = [None] * len(x) if spread is None else spread.tolist()
    truth = [by_a_loop(p, s, table.numpy(), *grid) for p, s in zip(x.tolist(), spreads)]
    assert np.abs(found.numpy() - np.stack(truth)).max() < 1e-12


def test_a_linear_function_on_the_nodes_is_reproduced_everywhere(encode):
    resolutions, slope = (1, 3, 7), torch.tensor([[2.0, -1.0, 0.5], [0.3, 4.0, -2.0]], dtype=torch.float64)
    levels = []
    for n in resolutions:
        z, y, x = torch.meshgrid(*[torch.arange(n + 1, dtype=torch.float64) / n] * 3, indexing="ij")
        levels.append(torch.stack([x, y, z], -1).reshape(-1, 3) @ slope.T + 1)
    points = torch.rand(500, 3, dtype=torch.float64, requires_grad=True)
    found = encode(points, None, torch.cat(levels), resolutions, 10)
    assert torch.allclose(found, (points @ slope.T + 1).repeat(1, 3), atol=1e-13)
    (gradient,) = torch.autograd.grad(found[:, 3].sum(), points)
    assert torch.allclose(gradient, slope[1].expand(500, 3), atol=1e-11)


def test_the_fading_is_the_share_of_a_gaussian_within_half_a_cell():
    n, sigma = 7, torch.tensor([0.01, 0.07, 0.3])
    table = torch.ones(ops.grid_levels((n,), 12)[-1], 1)
    found = ops.grid_encode(torch.full((3, 3), 0.4), sigma, table, (n,), 12)[:, 0]
    drawn = np.abs(np.random.default_rng(0).normal(size=200_000)[:, None] * sigma.numpy()) < 0.5 / n
    assert np.abs(found.numpy() - drawn.mean(0)).max() < 5e-3
    assert np.allclose(found, 1 - 2 * norm.cdf(-0.5 / n / sigma.double().numpy()), atol=5e-7)


def test_the_share_is_right_over_the_whole_range_in_float32():
    sigma = torch.logspace(-8, 8, 4001)
    table, x = torch.ones(8, 1), torch.full((4001, 3), 0.5)
    found = ops.grid_encode(x, sigma, table, (1,), 3)[:, 0].double()
    truth = torch.special.erf(1 / (math.sqrt(8) * sigma.double()))
    assert ((found - truth).abs() <= 1e-6 * truth).all()
    none = torch.tensor([0.0, math.inf, math.nan])
    found = ops.grid_encode(x[:3], none, table, (1,), 3)[:, 0]
    assert found[0] == 1 and found[1] == 0 and found[2].isnan()


@pytest.mark.parametrize("grid", ["tiny", "wrapping"])
@pytest.mark.parametrize("sigma", [False, True])
def test_gradcheck_of_both_orders(grid, sigma):
    x, spread, table, *grid = inputs(grid, 3, sigma=sigma)
    leaves = [v.requires_grad_() for v in ((x, spread, table) if sigma else (x, table))]

    def function(x, *rest):
        return ops.grid_encode(x, rest[0] if sigma else None, rest[-1], *grid)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sigma", [False, True])
def test_values_and_gradients_equal_the_float64_reference(grid, sigma, dtype):
    x, spread, table, *grid = inputs(grid, 1031, 2, dtype, sigma)
    cotangent = torch.randn(1031, 2 * len(grid[0]), dtype=dtype)
    found, truth = [], []
    for function, to, into in ((ops.grid_encode, dtype, found), (reference.grid_encode, torch.float64, truth)):
        leaves = [v.to(to).requires_grad_() for v in ((x, spread, table) if sigma else (x, table))]
        out = function(leaves[0], leaves[1] if sigma else None, leaves[-1], *grid)
        into += [out, *torch.autograd.grad(out, leaves, cotangent.to(to))]
    for a, b in zip(found, truth):
        assert a.dtype == dtype
        assert (a - b).norm() <= (1e-5 if dtype == torch.float32 else 1e-12) * max(1.0, b.norm().item())


def test_only_wanted_gradients_are_computed_and_each_equals_that_of_all():
    x, spread, table, *grid = inputs("mixed")
    everything = torch.autograd.grad(
        ops.grid_encode(*(v.requires_grad_() for v in (x, spread, table)), *grid).sum(), (x, spread, table)
    )
    for i in range(3):
        leaves = [v.detach().requires_grad_(i == j) for j, v in enumerate((x, spread, table))]
        (alone,) = torch.autograd.grad(ops.grid_encode(*leaves, *grid).sum(), leaves[i])
        assert torch.equal(alone, everything[i])


def test_points_outside_are_moved_to_the_border_and_feel_no_slope_there(encode):
    _, _, table, *grid = inputs("mixed")
    outside = torch.tensor([[-0.5, 0.3, 0.6], [0.2, math.inf, 1.5], [-math.inf, 0.5, 0.5]]).double().requires_grad_()
    border = outside.detach().clamp(0, 1)
    found = encode(outside, None, table, *grid)
    assert torch.equal(found, encode(border, None, table, *grid))
    (slope,) = torch.autograd.grad(found.square().sum(), outside)
    moved = outside != border
    assert (slope[moved] == 0).all() and (slope[~moved] != 0).all()


def test_not_a_number_gives_nan_for_that_sample_only(encode):
    x, _, table, *grid = inputs("mixed", 200)
    x[3, 1] = x[150, 2] = math.nan
    found = encode(x, None, table, *grid)
    assert found[[3, 150]].isnan().all()
    assert found.isnan().any(1).sum() == 2
    table.requires_grad_()
    (grad,) = torch.autograd.grad(encode(x, None, table, *grid).sum(), table)
    assert 0 < grad.isnan().any(1).sum() <= 2 * 8 * len(grid[0])


def test_corners_of_the_cube_stay_within_the_table(encode):
    corners = torch.tensor(list(itertools.product((0.0, 1.0, 1 - 2**-24), repeat=3)))
    for resolutions, log2_size in GRIDS.values():
        table = torch.randn(ops.grid_levels(resolutions, log2_size)[-1], 2)
        found = encode(corners, None, table, resolutions, log2_size)
        assert found.isfinite().all() and found.abs().max() <= table.abs().max() * (1 + 1e-6)


@pytest.mark.parametrize(("samples", "features"), [(0, 2), (1, 2), (5, 0), (129, 4), (128, 1), (300, 8)])
def test_every_size(samples, features):
    x, spread, table, *grid = inputs("mixed", samples, features)
    leaves = [v.requires_grad_() for v in (x, spread, table)]
    found = ops.grid_encode(*leaves, *grid)
    assert found.shape == (samples, 4 * features)
    truth = reference.grid_encode(*leaves, *grid)
    assert torch.allclose(found, truth)
    for a, b in zip(*(torch.autograd.grad(v.sum(), leaves, allow_unused=True) for v in (found, truth))):
        assert torch.allclose(a, torch.zeros_like(a) if b is None else b, rtol=1e-10)
    assert ops.grid_encode(x, None, table[:0], (), 5).shape == (samples, 0)


def test_any_strides():
    x, spread, table, *grid = inputs("mixed")
    strided = [torch.stack([v, v], -1)[..., 0].requires_grad_() for v in (x, spread, table)]
    dense = [v.requires_grad_() for v in (x, spread, table)]
    outputs = [ops.grid_encode(*v, *grid) for v in (strided, dense)]
    assert torch.equal(*outputs)
    gradients = [torch.autograd.grad(o.sum(), v) for o, v in zip(outputs, (strided, dense))]
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_the_result_does_not_depend_on_the_number_of_threads():
    x, spread, table, *grid = inputs("mixed", 20_001, dtype=torch.float32)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaves = [v.detach().requires_grad_() for v in (x, spread, table)]
        out = ops.grid_encode(*leaves, *grid)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


def test_opcheck():
    if not backends.kernels_for("cpu"):
        pytest.skip("no kernels here")
    library = torch.ops.medrecon
    for sigma in (True, False):
        x, spread, table, resolutions, log2_size = inputs("mixed", 9, sigma=sigma)
        grad, rest = torch.rand(9, 8, dtype=torch.float64), (list(resolutions), log2_size)
        leaves = [None if v is None else v.requires_grad_() for v in (x, spread, table)]
        torch.library.opcheck(library.grid_encode.default, (*leaves, *rest))
        plain = [None if v is None else v.detach() for v in leaves]
        torch.library.opcheck(library.grid_encode_backward_table.default, (grad, *plain[:2], 2, *rest))
        torch.library.opcheck(library.grid_encode_backward_inputs.default, (grad, *plain, *rest))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": torch.rand(5, 2)}, "x has shape"),
        ({"x": torch.rand(5, 3).double()}, "table is torch.float32 but x is torch.float64"),
        ({"sigma": torch.rand(4)}, "sigma has shape"),
        ({"table": torch.rand(8, 2)}, "table has shape"),
        ({"table": torch.rand(91)}, "table has shape"),
        ({"resolutions": (3, 2)}, "resolutions is"),
        ({"resolutions": (0, 2)}, "resolutions is"),
        ({"resolutions": (2,) * 33}, "33 levels"),
        ({"log2_size": 31}, "log2_size is 31"),
    ],
)
def test_errors_name_the_argument(change, named):
    right = {"x": torch.rand(5, 3), "sigma": None, "table": torch.rand(91, 2), "resolutions": (2, 3), "log2_size": 10}
    ops.grid_encode(**right)
    with pytest.raises(ValueError, match=named):
        ops.grid_encode(**right | change)


SCRIPT = """
import torch
from medrecon import ops
generator = torch.Generator().manual_seed(0)
resolutions, log2_size = (5, 11, 40), 10
table = torch.rand(ops.grid_levels(resolutions, log2_size)[-1], 2, generator=generator).requires_grad_()
x, sigma = torch.rand(300, 3, generator=generator), torch.rand(300, generator=generator) * 0.1
out = ops.grid_encode(x, sigma, table, resolutions, log2_size)
grad, = torch.autograd.grad(out.square().sum(), table)
truth = ops.reference.grid_encode(x.double(), sigma.double(), table.double(), resolutions, log2_size)
of_truth, = torch.autograd.grad(truth.square().sum(), table)
print(ops.backend().build_info["simd"], (out - truth).abs().max().item(), (grad - of_truth).abs().max().item())
"""


@pytest.mark.parametrize("simd", ["baseline", "avx2"])
def test_lesser_instruction_sets_compute_the_same(simd):
    if not backends.kernels_for("cpu"):
        pytest.skip("no kernels here")
    environment = os.environ | {"MEDRECON_SIMD": simd}
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    used, *errors = result.stdout.split()
    assert used in (simd, "baseline")
    assert float(errors[0]) < 2e-6 and float(errors[1]) < 1e-5

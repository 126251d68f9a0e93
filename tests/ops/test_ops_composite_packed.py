# SPDX-License-Identifier: Apache-2.0
"""composite_packed: against composite ray by ray, early stopping, gradients of both orders, torch's own checks."""

import pytest
import torch

from medrecon import ops
from medrecon.ops import reference


def scene(counts, dtype=torch.float64, device="cpu", most=3.0):
    """rgb, density, t0, t1, offsets, directions, background."""
    t, m, n = [], sum(counts), len(counts)
    for count in counts:
        t.append((torch.rand(count + 1, dtype=dtype) * 3 + 0.5).sort().values)
    t0 = torch.cat([torch.zeros(0, dtype=dtype), *(x[:-1] for x in t)])
    t1 = torch.cat([torch.zeros(0, dtype=dtype), *(x[1:] for x in t)])
    offsets = torch.tensor([0, *counts]).cumsum(0)
    rgb, density = torch.rand(m, 3, dtype=dtype), torch.rand(m, dtype=dtype) * most
    inputs = rgb, density, t0, t1, offsets, torch.randn(n, 3, dtype=dtype), torch.rand(n, 3, dtype=dtype)
    return [x.to(device) for x in inputs]


def value_and_grads(function, inputs, cotangents=None, **options):
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    outputs = function(*leaves, **options)
    if cotangents is None:
        cotangents = [torch.rand_like(x) - 0.5 for x in outputs]
    grads = torch.autograd.grad(outputs, [x for x in leaves if x.requires_grad], cotangents)
    return [*outputs, *grads], cotangents


def same(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a.double(), b.double(), rtol=0, atol=tolerance * max(1.0, b.abs().sum().item()))


COUNTS = [[3, 0, 17, 1, 40, 0], [], [0], [0, 0], [1], [64], [5] * 40]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_each_ray_is_that_of_composite(counts, device):
    rgb, density, t0, t1, offsets, directions, background = scene(counts, torch.float64, device)
    found = ops.composite_packed(rgb, density, t0, t1, offsets, directions, background)
    assert [x.shape[0] for x in found] == [len(counts)] * 3 + [sum(counts)]
    for i, (a, b) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist())):
        t = torch.cat([t0[a:b], t1[b - 1 : b]]) if b > a else t0.new_zeros(1)
        alone = ops.composite(rgb[None, a:b], density[None, a:b], t[None], directions[i : i + 1], background[i])
        same([found[0][i], found[1][i], found[2][i], found[3][a:b]], [x[0] for x in alone], 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stop", [0.0, 0.3])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_values_and_gradients_equal_the_float64_reference(counts, stop, dtype, device):
    inputs = scene(counts, dtype, device)
    found, cotangents = value_and_grads(ops.composite_packed, inputs, stop=stop)
    assert all(x.dtype == dtype for x in found)
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    expected, _ = value_and_grads(reference.composite_packed, wide, [c.double() for c in cotangents], stop=stop)
    same(found, expected, 2e-6 if dtype == torch.float32 else 1e-13)


def test_what_too_little_light_reaches_counts_for_nothing(device):
    inputs = scene([60], torch.float64, device, most=9.0)
    *_, all_weights = ops.composite_packed(*inputs)
    light = 1 - torch.cat([all_weights.new_zeros(1), all_weights.cumsum(0)[:-1]])  # before each sample
    lit = light >= 0.2
    assert lit.any() and not lit.all()
    found, _ = value_and_grads(ops.composite_packed, inputs, stop=0.2)
    (colour, _, opacity, weights), (of_rgb, of_density, of_t0, of_t1, *_) = found[:4], found[4:]
    assert torch.allclose(weights, all_weights * lit, atol=1e-12)
    assert torch.allclose(opacity, weights.sum()[None]) and colour.isfinite().all()
    assert not any(x[~lit].any() for x in (of_rgb, of_density, of_t0, of_t1))
    assert of_density[lit].any()


def test_gaps_between_intervals_are_empty(device):
    rgb, density, t0, t1, offsets, directions, background = scene([9], torch.float64, device)
    t1 = t0 + 0.5 * (t1 - t0)
    opacity = ops.composite_packed(rgb, density, t0, t1, offsets, directions, background)[2]
    depth = (density * (t1 - t0)).sum() * directions.norm()
    assert opacity.item() == pytest.approx(1 - torch.exp(-depth).item(), rel=1e-12)


@pytest.mark.parametrize("stop", [0.0, 0.1])
def test_gradcheck_of_both_orders(stop):
    rgb, density, t0, t1, offsets, directions, background = scene([2, 0, 3])
    leaves = [x.requires_grad_() for x in (rgb, density, t0, t1, directions, background)]
    function = lambda *x: ops.composite_packed(*x[:4], offsets, *x[4:], stop=stop)
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_nothing_depends_on_the_number_of_threads():
    inputs = scene([i % 23 for i in range(400)], torch.float32)
    _, cotangents = value_and_grads(ops.composite_packed, inputs, stop=0.1)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(value_and_grads(ops.composite_packed, inputs, cotangents, stop=0.1)[0])
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_opcheck(kernels):
    rgb, density, t0, t1, offsets, directions, background = scene([3, 0, 5])
    inputs = [x.requires_grad_() for x in (rgb, density, t0, t1, directions, background)]
    torch.library.opcheck(torch.ops.medrecon.composite_packed.default, (*inputs, offsets, 0.1))


@pytest.mark.parametrize("offsets", [[0, 5, 3, 8], [0, 2, 3, 9], [1, 2, 3, 8], [-1, 2, 3, 8]])
def test_the_operator_refuses_offsets_that_are_none(offsets, kernels):
    inputs = scene([3, 2, 3])
    with pytest.raises(RuntimeError, match="offsets must ascend from 0 to the number of samples, 8"):
        ops.composite_packed(*inputs[:4], torch.tensor(offsets), *inputs[5:])


@pytest.mark.parametrize(
    ("at", "value", "named"),
    [
        (4, torch.tensor([0.0, 3.0]), "offsets is torch.float32"),
        (0, torch.rand(3, 2).double(), "rgb has shape"),
        (2, torch.rand(4).double(), "t0 has shape"),
        (5, torch.rand(2, 3).double(), "directions has shape"),
        (6, torch.rand(2).double(), "background has shape"),
    ],
)
def test_errors_name_the_argument(at, value, named):
    inputs = scene([3])
    inputs[at] = value
    with pytest.raises(ValueError, match=named):
        ops.composite_packed(*inputs)
    with pytest.raises(ValueError, match="stop is 1.5"):
        ops.composite_packed(*scene([3]), stop=1.5)

# SPDX-License-Identifier: Apache-2.0
"""fused_grid and fused_grid_loss against the same field put together from the single references in float64."""

import os
import subprocess
import sys

import pytest
import torch

from medrecon import ops
from medrecon.ops import reference

SHAPE = {"resolution": 16, "step": 1 / 24, "resolutions": (3, 7, 12), "log2_size": 9, "width": 20, "colour_width": 12}
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
BACKGROUND = 10
LEAVES = (5, 6, 7)


def exact(x):
    """What float32 holds exactly."""
    return x.float().double()


def rays(n):
    """From around the cube into it; multiples of 2^-10, so that a float32 finds the samples that a float64 does."""
    origins = 0.5 + 1.1 * torch.nn.functional.normalize(torch.randn(n, 3), dim=-1)
    directions = torch.nn.functional.normalize(0.1 + 0.8 * torch.rand(n, 3) - origins, dim=-1)
    return [(x.double() * 1024).round() / 1024 for x in (origins, directions)]


def inputs(n, shape, features=2, background="ray", extra=True, filled=0.5):
    """All tensor arguments in float64, in the operator's order."""
    origins, directions = rays(n)
    occupied = torch.rand(shape["resolution"] ** 3) < filled
    padded = torch.nn.functional.pad(occupied, (0, -len(occupied) % 8)).view(-1, 8).long()
    bits = (padded << torch.arange(8)).sum(-1).to(torch.uint8)
    n_in, w, c = len(shape["resolutions"]) * features, shape["width"], shape["colour_width"]
    layers = shape.get("layers", 1)
    count = (n_in + 1) * w + (layers - 1) * (w + 1) * w + w + 1 + c * (w + 3) + 3
    table = torch.randn(ops.grid_levels(shape["resolutions"], shape["log2_size"])[-1], features)
    colour = {"none": None, "one": torch.rand(3), "ray": torch.rand(n, 3)}[background]
    jitter = torch.randint(16, (n,)) / 16 if extra else None
    radii = torch.rand(n) * 0.05 if extra else None
    tensors = [torch.zeros(n), torch.full((n,), 3.0), bits, table, torch.randn(count) * 0.4, torch.randn(n, c)]
    tensors = [origins, directions, *tensors, jitter, radii, colour]
    return [x if x is None or x.dtype == torch.uint8 else exact(x) for x in tensors]


def numbers(shape):
    return (
        shape["resolution"], shape["step"], shape.get("cone", 0.0), shape.get("max_samples", 1024),
        shape.get("stop", 0.0), shape["resolutions"], shape["log2_size"], shape["width"], shape.get("layers", 1),
        shape["colour_width"], shape.get("density_shift", 0.0),
    )  # fmt: skip


def call(op, tensors, shape, *more):
    *rest, jitter, radii, background = tensors
    return op(*rest, *more, jitter=jitter, radii=radii, background=background, **shape)


def leaves_of(tensors):
    found = [tensors[i].requires_grad_() for i in LEAVES]
    return found if tensors[BACKGROUND] is None else [*found, tensors[BACKGROUND].requires_grad_()]


def moved(tensors, dtype):
    return [x if x is None or x.dtype == torch.uint8 else x.detach().to(dtype) for x in tensors]


def close(found, truth, tolerance):
    found, truth = found.double().flatten(), truth.double().flatten()
    return (found - truth).norm() <= tolerance * max(1e-3, truth.norm())


VARIANTS = {
    "small": (SHAPE, 7, {}),
    "fine steps": ({**SHAPE, "step": 1 / 128, "density_shift": 1.0, "width": 32, "colour_width": 32}, 70, {}),
    "four features, three layers": ({**SHAPE, "layers": 3}, 33, {"features": 4, "background": "one"}),
    "three features, deep": ({**SHAPE, "layers": 8, "width": 33, "colour_width": 5}, 9, {"features": 3}),
    "cone, no fading": ({**SHAPE, "cone": 1 / 32, "width": 130}, 40, {"extra": False, "background": "none"}),
    "stops": ({**SHAPE, "step": 1 / 64, "density_shift": 3.0, "stop": 0.01}, 65, {}),
    "stops at once": ({**SHAPE, "density_shift": 14.0, "stop": 0.5}, 40, {"background": "one"}),
    "few samples": ({**SHAPE, "max_samples": 3}, 40, {}),
}


@pytest.mark.parametrize("name", VARIANTS)
@BOTH
def test_values_and_gradients_are_those_of_the_reference(name, dtype):
    shape, n, given = VARIANTS[name]
    tensors = inputs(n, shape, **given)
    low = moved(tensors, dtype)
    leaves, low_leaves = leaves_of(tensors), leaves_of(low)
    truth, found = reference.fused_grid(*tensors, *numbers(shape)), call(ops.fused_grid, low, shape)
    assert torch.equal(found[3], truth[3]) and truth[3].max() >= 1
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11
    for a, b in zip(found[:3], truth[:3]):
        assert a.shape == b.shape and a.dtype == dtype and (a - b).abs().max() <= tolerance * max(1.0, b.abs().max())
    cotangents = [exact(torch.randn(x.shape)) for x in truth[:3]]
    grads = torch.autograd.grad(found[:3], low_leaves, [c.to(dtype) for c in cotangents])
    expected = torch.autograd.grad(truth[:3], leaves, cotangents)
    assert all(close(a, b, 1e-3 if dtype == torch.float32 else 1e-9) for a, b in zip(grads, expected))

    target, weight = exact(torch.rand(n, 3)), exact(torch.rand(n))
    loss, rgb, seen = call(ops.fused_grid_loss, low, shape, target.to(dtype), weight.to(dtype))
    right = (weight * ((reference.fused_grid(*tensors, *numbers(shape))[0] - target) ** 2).mean(-1)).sum()
    assert abs(loss - right) <= tolerance * max(1.0, right.item()) and torch.equal(seen, found[3])
    assert (rgb - found[0]).abs().max() <= tolerance and not rgb.requires_grad
    for a, b in zip(torch.autograd.grad(3 * loss, low_leaves), torch.autograd.grad(3 * right, leaves)):
        assert close(a, b, 1e-3 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 65])
@BOTH
def test_every_number_of_rays_of_which_some_are_empty(n, dtype):
    tensors = inputs(n, SHAPE)
    tensors[0][::3] += 9  # these miss the cube
    low = moved(tensors, dtype)
    truth, found = reference.fused_grid(*tensors, *numbers(SHAPE)), call(ops.fused_grid, low, SHAPE)
    assert all(torch.allclose(a.double(), b.double(), atol=1e-5) for a, b in zip(found, truth))
    assert not found[3][::3].any() and torch.equal(found[0][::3], low[BACKGROUND][::3])
    leaves = leaves_of(low)
    loss = call(ops.fused_grid_loss, low, SHAPE, torch.rand(n, 3, dtype=dtype), torch.ones(n, dtype=dtype))[0]
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, leaves))


def test_nothing_occupied_is_background_and_no_gradient():
    tensors = inputs(40, SHAPE, filled=0.0)
    leaves = leaves_of(tensors)
    rgb, depth, opacity, seen = call(ops.fused_grid, tensors, SHAPE)
    assert torch.equal(rgb, tensors[BACKGROUND]) and not any(x.any() for x in (depth, opacity, seen))
    grads = torch.autograd.grad(rgb.sum() + depth.sum(), leaves)
    assert not any(g.any() for g in grads[:3]) and (grads[3] == 1).all()


@pytest.mark.parametrize("stop", [0.0, 0.9])
def test_rays_that_hardly_move_have_many_samples(stop):
    shape = {**SHAPE, "max_samples": 200, "stop": stop, "density_shift": 2.0}
    tensors = inputs(40, shape, filled=1.0)
    origins, directions, _, far = tensors[:4]
    origins[:5], far[:] = 0.5, float("inf")
    directions[:3] = 0  # stand still, for ever
    directions[3:5] *= 1e-4
    found = call(ops.fused_grid, tensors, shape)
    truth = reference.fused_grid(*tensors, *numbers(shape))
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found, truth))
    assert (found[3][:3] == 200).all() and (stop > 0 or (found[3][3:5] == 200).all())
    loss = call(ops.fused_grid_loss, tensors, shape, torch.rand(40, 3).double(), torch.rand(40).double())[0]
    assert loss.isfinite()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3e38])
def test_no_number_is_too_wild(value):
    for wild in (0, 1, 2, 3, *LEAVES, 8, 9, 10):
        tensors = moved(inputs(40, SHAPE), torch.float32)
        tensors[wild].view(-1)[::7] = value
        leaves = leaves_of(tensors)
        assert call(ops.fused_grid, tensors, SHAPE)[0].shape == (40, 3)
        loss = call(ops.fused_grid_loss, tensors, SHAPE, torch.rand(40, 3), torch.rand(40))[0]
        assert [g.shape for g in torch.autograd.grad(loss, leaves)] == [x.shape for x in leaves]


def test_gradcheck():
    shape = {**SHAPE, "width": 4, "colour_width": 3, "resolutions": (2, 4), "log2_size": 5, "step": 1 / 8}
    tensors = inputs(3, shape, background="one")

    def render(*leaves):
        return call(ops.fused_grid, [*tensors[:5], *leaves[:3], *tensors[8:10], leaves[3]], shape)[:3]

    def loss(*leaves):
        given = [*tensors[:5], *leaves[:3], *tensors[8:10], leaves[3]]
        return call(ops.fused_grid_loss, given, shape, *target)[0]

    leaves, target = leaves_of(tensors), (torch.rand(3, 3).double(), torch.rand(3).double())
    assert torch.autograd.gradcheck(render, leaves)
    assert torch.autograd.gradgradcheck(render, leaves, fast_mode=True)
    assert torch.autograd.gradcheck(loss, leaves, fast_mode=True)


def test_rays_that_move_get_their_gradients_too():
    tensors = inputs(5, SHAPE)
    moving = [tensors[i].requires_grad_() for i in (0, 1, 9)]
    found = torch.autograd.grad(call(ops.fused_grid, tensors, SHAPE)[0].sum(), moving)
    truth = torch.autograd.grad(reference.fused_grid(*tensors, *numbers(SHAPE))[0].sum(), moving)
    assert all(torch.allclose(a, b) for a, b in zip(found, truth))


@pytest.mark.parametrize("stop", [0.0, 0.02])
def test_results_repeat_bit_for_bit_with_any_number_of_threads(stop, kernels):
    shape = {**SHAPE, "stop": stop, "step": 1 / 50, "density_shift": 2.0}
    tensors = moved(inputs(300, shape), torch.float32)
    leaves, target, weight = leaves_of(tensors), torch.rand(300, 3), torch.rand(300)
    results = []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        outputs = call(ops.fused_grid, tensors, shape)
        loss, rgb, seen = call(ops.fused_grid_loss, tensors, shape, target, weight)
        grads = torch.autograd.grad(sum(x.square().sum() for x in outputs[:3]), leaves)
        results.append([*outputs, *grads, loss, rgb, seen, *torch.autograd.grad(loss, leaves)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


SCRIPT = """
import torch
from medrecon.ops import backend, selftest
generator = torch.Generator().manual_seed(0)
case = next(c for c in selftest.cases(generator) if c.name == "fused_grid")
checked = [selftest.check(case, "cpu", dtype, generator, 1).ok for dtype in (torch.float32, torch.float64)]
print(backend().build_info["simd"], *checked)
"""


@pytest.mark.parametrize("simd", ["baseline", "avx2"])
def test_lesser_instruction_sets_compute_the_same(simd, kernels):
    environment = os.environ | {"MEDRECON_SIMD": simd}
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() in ([simd, "True", "True"], ["baseline", "True", "True"])


def test_strides_do_not_matter(kernels):
    tensors = moved(inputs(9, SHAPE), torch.float32)
    strided = [x if x is None else torch.stack([x, x], -1)[..., 0] for x in tensors]
    dense, found = call(ops.fused_grid, tensors, SHAPE), call(ops.fused_grid, strided, SHAPE)
    assert all(torch.equal(a, b) for a, b in zip(dense, found))


def test_not_a_number_stays_in_its_ray(kernels):
    tensors = moved(inputs(40, SHAPE, filled=1.0), torch.float32)
    tensors[7][4, 0] = float("nan")
    tensors[0][5, 1] = float("inf")
    rgb, _, _, seen = call(ops.fused_grid, tensors, SHAPE)
    others = [i for i in range(40) if i != 4]
    assert rgb[4].isnan().all() and rgb[others].isfinite().all() and seen[5] == 0


def test_opcheck(kernels):
    tensors = moved(inputs(4, SHAPE), torch.float32)
    leaves_of(tensors)
    library, rest = torch.ops.medrecon, numbers(SHAPE)
    torch.library.opcheck(library.fused_grid.default, (*tensors, *rest))
    torch.library.opcheck(library.fused_grid_loss.default, (*tensors, torch.rand(4, 3), torch.rand(4), *rest))
    cotangents = torch.randn(4, 3), torch.randn(4), torch.randn(4)
    torch.library.opcheck(library.fused_grid_backward.default, (*cotangents, *moved(tensors, torch.float32), *rest))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 0}, "width is 0"),
        ({"layers": 9}, "layers is 9"),
        ({"colour_width": 11}, "parameters has shape"),
        ({"resolutions": (3, 7)}, "table has shape"),
        ({"resolutions": (7, 3)}, "resolutions is"),
        ({"resolution": 17}, "occupancy has shape"),
        ({"step": 0}, "step is 0"),
        ({"stop": 1}, "stop is 1"),
        ({"background": torch.rand(2, 3).double()}, "background has shape"),
        ({"radii": torch.rand(2).double()}, "radii has shape"),
    ],
)
def test_errors_name_the_argument(change, named):
    tensors = inputs(5, SHAPE, extra=False, background="none")
    with pytest.raises(ValueError, match=f"fused_grid: .*{named}"):
        ops.fused_grid(*tensors[:8], **{**SHAPE, **change})
    with pytest.raises(ValueError, match=f"fused_grid_loss: .*{named}"):
        ops.fused_grid_loss(*tensors[:8], torch.rand(5, 3).double(), torch.rand(5).double(), **{**SHAPE, **change})


def test_the_loss_gives_no_gradient_to_the_target():
    tensors, target = inputs(5, SHAPE), torch.rand(5, 3).double().requires_grad_()
    with pytest.raises(ValueError, match="detach"):
        call(ops.fused_grid_loss, tensors, SHAPE, target, torch.rand(5).double())

# SPDX-License-Identifier: Apache-2.0
"""composite and resample in kernels against the float64 reference: values, gradients, sizes, extremes, threads."""

import math

import pytest
import torch

from medrecon import ops
from medrecon.ops import functions, reference

pytestmark = pytest.mark.usefixtures("kernels")
DTYPES = [torch.float32, torch.float64]


def scene(n, s, dtype=torch.float64, device="cpu", most=4.0):
    t = (torch.rand(n, s + 1, dtype=dtype) * 3 + 0.5).sort(-1).values
    inputs = torch.rand(n, s, 3, dtype=dtype), torch.rand(n, s, dtype=dtype) * most, t, torch.randn(n, 3, dtype=dtype)
    return [x.to(device) for x in (*inputs, torch.rand(n, 3, dtype=dtype))]


def value_and_grads(function, inputs, cotangents=None):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    outputs = function(*leaves)
    if cotangents is None:
        cotangents = [torch.rand_like(x) - 0.5 for x in outputs]
    return [*outputs, *torch.autograd.grad(outputs, leaves, cotangents)], cotangents


def same(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        scale = max(1.0, b.abs().max().item()) if b.numel() else 1.0
        assert torch.allclose(a.double(), b, rtol=0, atol=tolerance * scale, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "s"), [(3, 1), (4, 0), (0, 7), (1, 33), (40, 17), (2, 300), (7, 16), (70, 15), (5, 64)])
@pytest.mark.parametrize("background", [None, "one", "each"])
def test_composite_of_every_size(n, s, background, dtype, device):
    *inputs, colours = scene(n, s, dtype, device)
    if background:  # the gradient of one for all is a sum over the rays
        inputs.append(colours if background == "each" else torch.rand(3, dtype=dtype, device=device))
    found, cotangents = value_and_grads(ops.composite, inputs)
    assert all(x.dtype == dtype for x in found)
    in_double = [x.double() for x in inputs], [c.double() for c in cotangents]
    expected, _ = value_and_grads(reference.composite, *in_double)
    same(found, expected, 1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_densities(dtype, device):
    n, s = 6, 21
    inputs = scene(n, s, dtype, device)
    density, t = inputs[1], inputs[2]
    density[0] = 0.0
    density[1] = 1e30  # opaque at once
    density[2] *= 1e-12  # barely there; its depth is still right
    density[3, 7] = 1e6
    t[4, 5:9] = t[4, 5:6]  # intervals without length
    found, cotangents = value_and_grads(ops.composite, inputs)
    expected, _ = value_and_grads(reference.composite, [x.double() for x in inputs], [c.double() for c in cotangents])
    # the gradients with respect to t and the direction grow with the density: each ray on its own scale
    for a, b in zip(found, expected):
        assert a.isfinite().all()
        scale = b.abs().flatten(1).max(1).values if b.dim() > 1 else b.abs()
        error = (a - b).abs().flatten(1).max(1).values if b.dim() > 1 else (a - b).abs()
        assert (error <= (3e-5 if dtype == torch.float32 else 1e-11) * scale.clamp(min=1)).all()


@pytest.mark.parametrize("packed", [False, True])
def test_what_shines_through_a_nearly_opaque_ray_keeps_its_digits(packed, device):
    """1 - opacity is 1e-7, of which float32 keeps not one digit; what is left is exp(-optical depth)."""
    n, s = 4, 20
    _, _, t, directions, _ = scene(n, s, torch.float64, device)
    t, directions = t.float().double(), (directions / directions.norm(dim=-1, keepdim=True)).float().double()
    length = (t[:, 1:] - t[:, :-1]) * directions.norm(dim=-1, keepdim=True)
    depth = torch.tensor([[16.0], [18.5], [30.0], [0.1]], dtype=torch.float64, device=device)
    density = (depth / length.sum(-1, keepdim=True)).expand(n, s).float().double()
    left = torch.exp(-(density * length).sum(-1))

    leaves = [x.float().clone().requires_grad_() for x in (density, torch.tensor([1.0, 0.5, 2.0], device=device))]
    black = torch.zeros(n, s, 3, device=device)
    if packed:
        offsets = torch.arange(n + 1, device=device) * s
        given = black.flatten(0, 1), leaves[0].flatten(), t[:, :-1].float().flatten(), t[:, 1:].float().flatten()
        colour = ops.composite_packed(*given, offsets, directions.float(), leaves[1])[0]
    else:
        colour = ops.composite(black, leaves[0], t.float(), directions.float(), leaves[1])[0]
    assert torch.allclose(colour.double(), left[:, None] * leaves[1].double(), rtol=1e-5, atol=0)
    for ray in range(n):
        of_density, of_background = torch.autograd.grad(colour[ray].sum(), leaves, retain_graph=True)
        assert torch.allclose(of_background.double(), left[ray].expand(3), rtol=1e-5, atol=0)
        assert torch.allclose(of_density[ray].double(), -3.5 * left[ray] * length[ray], rtol=2e-5, atol=0)


def test_an_infinite_density_hides_what_is_behind_and_breaks_no_gradient(device):
    inputs = scene(3, 40, torch.float64, device)
    inputs[1][1, 20] = math.inf
    found, cotangents = value_and_grads(ops.composite, inputs)
    expected, _ = value_and_grads(reference.composite, inputs, cotangents)
    assert not found[3][1, 21:].any() and found[2][1].item() == pytest.approx(1.0)
    for a, b in zip(found, expected):
        where = b.isfinite()
        assert torch.allclose(a[where], b[where], rtol=1e-10, atol=1e-12)


def test_not_a_number_stays_on_its_ray_and_behind(device):
    inputs = scene(3, 40, torch.float32, device)
    inputs[1][1, 20] = math.nan
    colour, depth, opacity, weights = ops.composite(*inputs)
    assert weights[1, :20].isfinite().all() and weights[1, 20:].isnan().all()
    assert colour[1].isnan().all() and opacity[1].isnan()
    assert all(x[[0, 2]].isfinite().all() for x in (colour, depth, opacity, weights))


def test_a_faint_ray_has_the_right_depth_in_float32(device):
    inputs = scene(50, 33, torch.float64, device, most=1e-6)
    inputs = [x.float() for x in inputs]
    _, depth, opacity, weights = ops.composite(*inputs)
    _, true_depth, true_opacity, true_weights = reference.composite(*(x.double() for x in inputs))
    assert ((depth - true_depth).abs() <= 1e-5 * true_depth).all()
    assert ((opacity - true_opacity).abs() <= 1e-5 * true_opacity).all()
    assert ((weights - true_weights).abs() <= 1e-5 * true_weights).all()


def test_gradcheck_of_both_orders():
    t = torch.tensor([[1.0, 1.3, 1.9, 2.2]], dtype=torch.float64).expand(2, 4).contiguous()
    inputs = scene(2, 3)
    inputs[2] = t
    leaves = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(functions.composite, leaves)
    assert torch.autograd.gradgradcheck(functions.composite, leaves)


def test_nothing_depends_on_the_number_of_threads_or_on_the_run():
    inputs = scene(501, 37, torch.float32)
    u = inputs[1] ** 3
    _, cotangents = value_and_grads(ops.composite, inputs)
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append([*value_and_grads(ops.composite, inputs, cotangents)[0], ops.resample(inputs[2], u, 40)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(
    ("n", "s", "count"), [(50, 64, 65), (3, 1, 4), (0, 7, 3), (1, 33, 1), (90, 17, 40), (2, 300, 7)]
)
def test_resample_draws_what_the_reference_draws(n, s, count, deterministic, dtype, device):
    t, weights = (
        x.to(device)
        for x in ((torch.rand(n, s + 1, dtype=dtype) * 4).sort(-1).values, torch.rand(n, s, dtype=dtype) ** 4)
    )
    given = {"padding": 0.01, "deterministic": deterministic}
    found = ops.resample(t, weights, count, **given, generator=torch.Generator().manual_seed(3))
    expected = reference.resample(t, weights, count, **given, generator=torch.Generator().manual_seed(3))
    assert found.shape == (n, count) and found.dtype == dtype
    assert torch.allclose(found, expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-12)
    strided = torch.stack([t, t], -1)[..., 0], torch.stack([weights, weights], 0)[0]
    again = ops.resample(*strided, count, **given, generator=torch.Generator().manual_seed(3))
    assert torch.equal(found, again)


@pytest.mark.parametrize("weights", [[math.nan, 1, 2], [1, math.inf, 2], [0, 0, 0], [math.inf] * 3, [1e-30, 0, 0]])
@pytest.mark.parametrize("t", [[0, 1, 2, 3], [0, math.nan, 2, 3], [1, 1, 1, 1], [0, 1, 2, math.inf]])
@pytest.mark.parametrize("padding", [0.0, 0.01])
def test_resample_of_anything_is_defined(weights, t, padding, device):
    t, weights = (torch.tensor([x], dtype=torch.float64, device=device) for x in (t, weights))
    found, expected = (f.resample(t, weights, 9, padding) for f in (ops, reference))
    assert torch.allclose(found, expected, atol=1e-12, equal_nan=True)


def test_the_operators_check_for_themselves():
    rgb, density, t, directions, background = scene(4, 3)
    with pytest.raises(RuntimeError, match="t has shape"):
        torch.ops.medrecon.composite(rgb, density, t[:, 1:], directions, background)
    with pytest.raises(RuntimeError, match="background is"):
        torch.ops.medrecon.composite(rgb, density, t, directions, background.float())
    with pytest.raises(RuntimeError, match="u has shape"):
        torch.ops.medrecon.resample(t, density, torch.rand(3, 5).double(), 0.0)
    with pytest.raises(RuntimeError, match="one interval at least"):
        torch.ops.medrecon.resample(t[:, :1], density[:, :0], torch.rand(4, 5).double(), 0.0)


def test_opcheck():
    inputs = scene(5, 9)
    torch.library.opcheck(torch.ops.medrecon.composite.default, [x.clone().requires_grad_() for x in inputs])
    made = ops.composite(*inputs)
    cotangents = [torch.rand_like(x) for x in made]
    torch.library.opcheck(torch.ops.medrecon.composite_backward.default, (*cotangents, *made[1:], *inputs))
    u = torch.rand(1, 7).double()
    without_gradient = ("test_schema", "test_faketensor")
    resample = torch.ops.medrecon.resample.default
    torch.library.opcheck(resample, (inputs[2], inputs[1], u, 0.01), test_utils=without_gradient)

# SPDX-License-Identifier: Apache-2.0
"""fused_field and fused_field_loss against the project's own network put together from the single ops."""

import pytest
import torch

from medrecon import ops
from medrecon.ops import reference
from medrecon.radiance.mlp import FieldMlp

SHAPE = {"max_deg": 6, "width": 24, "layers": 2, "colour_width": 12, "density_shift": 0.5, "density_gain": 2.0}
N_VIEW = 7
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def rays(n, s, dtype=torch.float64):
    t = torch.linspace(1, 4, s + 1, dtype=dtype) + torch.rand(n, s + 1, dtype=dtype) * 2 / (s + 1)
    directions = torch.nn.functional.normalize(torch.randn(n, 3, dtype=dtype), dim=-1) * 1.3
    return [t, torch.randn(n, 3, dtype=dtype) * 0.5, directions, torch.full((n, 1), 0.01, dtype=dtype)]


def network(shape, dtype=torch.float64):
    """The module of medrecon.radiance with biases that are not zero."""
    made = FieldMlp(
        6 * (shape["max_deg"] - shape.get("min_deg", 0)), N_VIEW, shape["width"], shape["layers"],
        shape["density_shift"], shape["density_gain"], torch.Generator().manual_seed(1),
    )  # fmt: skip
    made.colour_from_trunk = torch.nn.Linear(shape["width"], shape["colour_width"])
    made.colour_from_view = torch.nn.Linear(N_VIEW, shape["colour_width"], bias=False)
    made.colour_head = torch.nn.Linear(shape["colour_width"], 3)
    made.to(dtype)
    for parameter in made.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, -0.3, 0.3)
    return made


def flat(net):
    layers = [p for layer in net.trunk for p in (layer.weight, layer.bias)]
    rest = [net.density_head.weight, net.density_head.bias, net.colour_from_trunk.weight, *net.colour_head.parameters()]
    return torch.cat([p.flatten() for p in (*layers, *rest)])


def assembled(net, inputs, view, shape, background=None, mask=None):
    """The same picture, op by op, in the way the renderers of medrecon.radiance do it."""
    t, _, directions, _ = inputs
    n, s = t.shape[0], t.shape[1] - 1
    mean, var = (x.flatten(0, 1) for x in reference.cast_rays(*inputs))
    encoded = reference.integrated_positional_encoding(mean, var, shape.get("min_deg", 0), shape["max_deg"])
    features = net.features(encoded)
    density = net.density(features).view(n, s)
    if mask is not None:
        density = density * mask
    colour = net.colour(features, view, torch.arange(n).repeat_interleave(s)).view(n, s, 3)
    return reference.composite(colour, density, t, directions, background)


def fused(net, inputs, view, shape, **given):
    ray_bias = net.colour_from_view(view) + net.colour_from_trunk.bias
    return ops.fused_field(*inputs, flat(net), ray_bias, **shape, **given)


def gradients(outputs, leaves, cotangents):
    return torch.autograd.grad(outputs, leaves, [c.to(o) for c, o in zip(cotangents, outputs)])


def cosine(found, truth):
    found, truth = found.double().flatten(), truth.double().flatten()
    return float(found @ truth / (found.norm() * truth.norm()).clamp(min=1e-300))


def case(shape, n, s, background="ray", masked=True):
    """float64 inputs that float32 holds exactly, and cotangents of the four outputs."""
    exact = lambda x: x.float().double()  # noqa: E731
    inputs, view = [exact(x) for x in rays(n, s)], exact(torch.randn(n, N_VIEW))
    colour = {"none": None, "one": torch.rand(3), "ray": torch.rand(n, 3)}[background]
    mask = torch.rand(n, s) < 0.7 if masked else None
    if masked and n > 1:
        mask[1] = False  # a ray that meets nothing
    cotangents = [torch.randn(*x) for x in ((n, 3), (n,), (n,), (n, s))]
    return inputs, view, None if colour is None else exact(colour), mask, cotangents


VARIANTS = {
    "small": (SHAPE, 5, 9, "ray", True),
    "one layer": ({**SHAPE, "layers": 1, "width": 16, "colour_width": 8}, 3, 17, "one", False),
    "deep": ({**SHAPE, "layers": 8, "width": 33, "colour_width": 5}, 2, 12, "none", True),
    "mip-NeRF": ({**SHAPE, "max_deg": 16, "width": 64, "colour_width": 32, "layers": 2}, 7, 64, "one", False),
    "octaves from -1": ({**SHAPE, "min_deg": -1, "max_deg": 3}, 4, 31, "ray", True),
    "wide": ({**SHAPE, "width": 130, "colour_width": 65, "layers": 3}, 3, 40, "none", False),
    "many rays": ({**SHAPE, "width": 16, "colour_width": 8}, 301, 3, "ray", True),
}
each_variant = pytest.mark.parametrize("name", VARIANTS)


@each_variant
@BOTH
def test_it_is_the_network_of_the_renderers_in_value_and_gradient(name, dtype):
    shape, n, s, background, masked = VARIANTS[name]
    inputs, view, colour, mask, cotangents = case(shape, n, s, background, masked)
    net = network(shape)
    # The network in the precision tested holds exactly what the float64 one holds.
    net.load_state_dict({k: v.float().double() for k, v in net.state_dict().items()})
    low = network(shape, dtype)
    low.load_state_dict(net.state_dict())
    leaves, low_leaves = list(net.parameters()), list(low.parameters())
    low_colour = colour
    if colour is not None:
        colour, low_colour = colour.clone().requires_grad_(), colour.to(dtype).requires_grad_()
        leaves, low_leaves = [*leaves, colour], [*low_leaves, low_colour]
    truth = assembled(net, inputs, view, shape, colour, mask)
    found = fused(low, [x.to(dtype) for x in inputs], view.to(dtype), shape, background=low_colour, mask=mask)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for a, b in zip(found, truth):
        assert a.dtype == dtype and a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())
    for a, b in zip(gradients(found, low_leaves, cotangents), gradients(truth, leaves, cotangents)):
        assert cosine(a, b) >= 0.99999 if dtype == torch.float32 else torch.allclose(a, b, rtol=1e-8, atol=1e-10)
        assert (a - b).norm() <= 1e-3 * b.norm() + 1e-6


@each_variant
@BOTH
def test_the_loss_is_the_squared_error_and_its_gradients_are_autograds(name, dtype):
    shape, n, s, background, masked = VARIANTS[name]
    inputs, _, colour, mask, _ = case(shape, n, s, background, masked)
    parameters, ray_bias = flat(network(shape)).float().double().detach(), torch.randn(n, shape["colour_width"])
    target, weight = torch.rand(n, 3), torch.rand(n)
    leaves = [x.to(torch.float64) for x in (parameters, ray_bias)] + ([] if colour is None else [colour])
    leaves = [x.detach().requires_grad_() for x in leaves]
    low = [x.detach().to(dtype).requires_grad_() for x in leaves]

    numbers = [shape.get("min_deg", 0), *(shape[k] for k in list(SHAPE))]
    rgb, _, _, weights = reference.fused_field(
        *inputs, *leaves[:2], leaves[2] if colour is not None else None, mask, *numbers
    )
    truth = sum(weight[i].double() * ((rgb[i] - target[i].double()) ** 2).sum() / 3 for i in range(n))
    loss, low_rgb, low_weights = ops.fused_field_loss(
        *(x.to(dtype) for x in (*inputs, *low[:2], target, weight)),
        background=low[2] if colour is not None else None, mask=mask, **shape,
    )  # fmt: skip
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert loss.shape == () and abs(loss - truth) <= tolerance * max(1.0, truth.item())
    assert (low_rgb - rgb).abs().max() <= tolerance and (low_weights - weights).abs().max() <= tolerance
    assert not low_rgb.requires_grad and not low_weights.requires_grad
    for a, b in zip(torch.autograd.grad(3 * loss, low), torch.autograd.grad(3 * truth, leaves)):
        assert cosine(a, b) >= 0.99999
        assert (a - b).norm() <= (1e-3 * b.norm() + 1e-6 if dtype == torch.float32 else 1e-9 * b.norm())


@pytest.mark.parametrize(("n", "s"), [(0, 4), (1, 1), (3, 0), (0, 0), (1, 129), (2, 300), (67, 1)])
@BOTH
def test_every_number_of_rays_and_samples(n, s, dtype):
    shape = {**SHAPE, "width": 16}
    inputs = [x.to(dtype) for x in rays(n, s)]
    parameters = flat(network(shape)).to(dtype).detach().requires_grad_()
    ray_bias = torch.randn(n, shape["colour_width"], dtype=dtype, requires_grad=True)
    found = ops.fused_field(*inputs, parameters, ray_bias, background=torch.ones(3, dtype=dtype), **shape)
    numbers = [0, *(shape[k] for k in list(SHAPE))]
    doubles = [x.double() for x in (*inputs, parameters, ray_bias)]
    truth = reference.fused_field(*doubles, torch.ones(3).double(), None, *numbers)
    assert [x.shape for x in found] == [x.shape for x in truth]
    assert all(torch.allclose(a.double(), b, atol=1e-5) for a, b in zip(found, truth))
    grads = torch.autograd.grad(sum(x.sum() for x in found), (parameters, ray_bias))
    expected = torch.autograd.grad(sum(x.sum() for x in truth), (parameters, ray_bias))
    for a, b in zip(grads, expected):
        assert torch.allclose(a.double(), b.double(), atol=1e-4 * max(1.0, n * s / 16), rtol=1e-3)
    loss, *_ = ops.fused_field_loss(
        *inputs, parameters, ray_bias, torch.rand(n, 3).to(dtype), torch.ones(n).to(dtype), **shape
    )
    assert loss.isfinite() and all(g.isfinite().all() for g in torch.autograd.grad(loss, (parameters, ray_bias)))


def test_gradcheck():
    shape = {**SHAPE, "max_deg": 2, "width": 4, "colour_width": 3}
    inputs, parameters = rays(3, 4), flat(network(shape)).detach().requires_grad_()
    ray_bias = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    background = torch.rand(3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()

    def call(parameters, ray_bias, background):
        return ops.fused_field(*inputs, parameters, ray_bias, background=background, mask=mask, **shape)

    assert torch.autograd.gradcheck(call, (parameters, ray_bias, background))
    assert torch.autograd.gradgradcheck(call, (parameters, ray_bias, background), fast_mode=True)
    target, weight = torch.rand(3, 3).double(), torch.rand(3).double()

    def loss(parameters, ray_bias, background):
        given = {"background": background, "mask": mask, **shape}
        return ops.fused_field_loss(*inputs, parameters, ray_bias, target, weight, **given)[0]

    assert torch.autograd.gradcheck(loss, (parameters, ray_bias, background))


def test_rays_that_move_get_their_gradients_too():
    inputs, net = [x.requires_grad_() for x in rays(3, 5)], network(SHAPE)
    view = torch.randn(3, N_VIEW).double()
    found = torch.autograd.grad(fused(net, inputs, view, SHAPE)[0].sum(), inputs)
    truth = torch.autograd.grad(assembled(net, inputs, view, SHAPE)[0].sum(), inputs)
    assert all(torch.allclose(a, b) for a, b in zip(found, truth))


def test_strides_do_not_matter():
    inputs, parameters = rays(5, 9, torch.float32), flat(network(SHAPE, torch.float32)).detach()
    ray_bias = torch.randn(5, SHAPE["colour_width"])
    dense = ops.fused_field(*inputs, parameters, ray_bias, **SHAPE)
    strided = [torch.stack([x, x], -1)[..., 0] for x in (*inputs, parameters, ray_bias)]
    assert not any(x.is_contiguous() for x in strided)
    assert all(torch.equal(a, b) for a, b in zip(dense, ops.fused_field(*strided, **SHAPE)))


def everything(n, s, masked):
    """All arguments in float32: rays, what gets gradients, background, mask, target, weight."""
    leaves = [flat(network(SHAPE, torch.float32)).detach(), torch.randn(n, 12), torch.rand(n, 3)]
    leaves = [x.requires_grad_() for x in leaves]
    mask = torch.rand(n, s) < 0.5 if masked else None
    return rays(n, s, torch.float32), leaves, mask, torch.rand(n, 3), torch.rand(n)


@pytest.mark.parametrize("masked", [False, True])
def test_results_repeat_bit_for_bit_with_any_number_of_threads(masked, kernels):
    inputs, leaves, mask, target, weight = everything(211, 13, masked)
    results = []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        given = {"background": leaves[2], "mask": mask, **SHAPE}
        outputs = ops.fused_field(*inputs, *leaves[:2], **given)
        loss, rgb, weights = ops.fused_field_loss(*inputs, *leaves[:2], target, weight, **given)
        grads = torch.autograd.grad(sum(x.square().sum() for x in outputs), leaves)
        results.append([*outputs, *grads, loss, rgb, weights, *torch.autograd.grad(loss, leaves)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_a_masked_interval_costs_nothing_and_counts_nothing(kernels):
    inputs, leaves, mask, _, _ = everything(6, 11, True)
    t, origins, directions, radii = inputs
    poisoned = [x.detach().clone() for x in leaves[:2]]
    empty = ops.fused_field(*inputs, *poisoned, mask=torch.zeros(6, 11).bool(), background=leaves[2], **SHAPE)
    assert torch.equal(empty[0], leaves[2]) and not any(x.any() for x in empty[1:])
    poisoned[1][2] = float("nan")  # ray 2 knows nothing, but is masked away
    mask = torch.ones(6, 11).bool()
    mask[2] = False
    outputs = ops.fused_field(*inputs, *poisoned, mask=mask, **SHAPE)
    assert all(x.isfinite().all() for x in outputs) and not outputs[0][2].any()
    one = [x[3:4] for x in (t, origins, directions, radii)]
    alone = ops.fused_field(*one, leaves[0], leaves[1][3:4], **SHAPE)
    assert all(torch.allclose(a[3:4], b, atol=1e-6) for a, b in zip(outputs, alone))


def test_not_a_number_stays_in_its_ray(kernels):
    inputs, leaves, *_ = everything(9, 8, False)
    for argument, value in ((1, float("nan")), (1, float("inf")), (0, float("nan"))):
        broken = [x.clone() for x in inputs]
        broken[argument][4, 0] = value
        found = ops.fused_field(*broken, *leaves[:2], **SHAPE)[0]
        assert found[4].isnan().all() and found[[0, 1, 2, 3, 5, 6, 7, 8]].isfinite().all()


def test_high_octaves_of_far_points_are_right_in_float32(kernels):
    # Fine detail far from the origin: a mean rounded to float32 would be wrong by 2^15 times its rounding, 0.01 rad here.
    shape = {**SHAPE, "max_deg": 16, "width": 32, "colour_width": 16}
    inputs = [x.float().double() for x in rays(16, 24)]
    inputs[1] += 3
    inputs[3] *= 1e-4
    inputs[0] = (1 + (inputs[0] - 1) * 1e-3).float().double()
    parameters, ray_bias = flat(network(shape)).detach().float(), torch.randn(16, 16)
    numbers = [0, *(shape[k] for k in list(SHAPE))]
    truth = reference.fused_field(*inputs, parameters.double(), ray_bias.double() * 0, None, None, *numbers)
    found = ops.fused_field(*(x.float() for x in inputs), parameters, ray_bias * 0, **shape)
    assert all((a - b).abs().max() <= 1e-5 * max(1.0, b.abs().max().item()) for a, b in zip(found, truth))


@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(masked, kernels):
    inputs, leaves, mask, target, weight = everything(4, 5, masked)
    background = leaves[2] if masked else None
    numbers = (0, *(SHAPE[k] for k in SHAPE))
    tensors = (*inputs, *leaves[:2], background, mask)
    library = torch.ops.medrecon
    torch.library.opcheck(library.fused_field.default, (*tensors, *numbers))
    torch.library.opcheck(library.fused_field_loss.default, (*tensors, target, weight, *numbers))
    cotangents = [torch.randn(*x) for x in ((4, 3), (4,), (4,), (4, 5))]
    plain = [None if x is None else x.detach() for x in tensors]
    torch.library.opcheck(library.fused_field_backward.default, (*cotangents, *plain, *numbers))


def test_the_operators_check_for_themselves(kernels):
    inputs, leaves, *_ = everything(4, 5, False)
    with pytest.raises(RuntimeError, match="parameters has shape"):
        torch.ops.medrecon.fused_field(*inputs, leaves[0][1:], leaves[1], None, None, 0, 6, 24, 2, 12, 0.0, 1.0)
    with pytest.raises(RuntimeError, match="no gradients for t"):
        moving = [x.requires_grad_() for x in inputs]
        outputs = torch.ops.medrecon.fused_field(*moving, *leaves[:2], None, None, 0, 6, 24, 2, 12, 0.0, 1.0)
        outputs[0].sum().backward()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_deg": 0}, "max_deg 0"),
        ({"width": 0}, "width is 0"),
        ({"layers": 9}, "layers is 9"),
        ({"colour_width": 11}, "ray_bias has shape"),
        ({"layers": 3}, "parameters has shape"),
        ({"background": torch.rand(2, 3).double()}, "background has shape"),
        ({"mask": torch.ones(5, 8).bool()}, "mask has shape"),
        ({"mask": torch.ones(5, 9)}, "mask must be a bool"),
    ],
)
def test_errors_name_the_argument(change, named):
    inputs, parameters, ray_bias = rays(5, 9), flat(network(SHAPE)), torch.randn(5, 12).double()
    with pytest.raises(ValueError, match=named):
        ops.fused_field(*inputs, parameters, ray_bias, **{**SHAPE, **change})
    with pytest.raises(ValueError, match=named):
        target, weight = torch.rand(5, 3).double(), torch.rand(5).double()
        ops.fused_field_loss(*inputs, parameters, ray_bias, target, weight, **{**SHAPE, **change})


def test_the_loss_gives_no_gradient_to_the_target():
    inputs, parameters, ray_bias = rays(5, 9), flat(network(SHAPE)), torch.randn(5, 12).double()
    with pytest.raises(ValueError, match="detach"):
        target = torch.rand(5, 3).double().requires_grad_()
        ops.fused_field_loss(*inputs, parameters, ray_bias, target, torch.rand(5).double(), **SHAPE)
